"""Parts of mmdet that the suite replaces in every config, whatever its backbone."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor

from .hooks import import_with

# Heads that train and fail in their prediction (downstream.detection.heads).
_HEADS = {
    'SSDHead': 'PredictingSSDHead',
    'DynamicMaskHead': 'PredictingDynamicMaskHead',
}
_DETECTORS = ('DINODetector', 'GroundingDINODetector')
_REGISTERED_BY = 'downstream.detection'
# Of DINO's decoder: turns encoded reference boxes into queries. onedl-mmdetection's is twice as wide.
_REFERENCE_WEIGHT = 'decoder.ref_point_head.layers.0.weight'


def use_predicting_heads(cfg: Config) -> None:
    """Let heads of ``cfg`` that cannot predict be the suite's, which are equal but for that."""
    if _replace(cfg.get('model')) or (cfg.get('model') or {}).get('type') in _DETECTORS:
        import_with(cfg, _REGISTERED_BY)


def _replace(node: object) -> int:
    """Exchange the types in a part of a config; how many there were."""
    if isinstance(node, dict):
        kind = str(node.get('type')).removeprefix('mmdet.')
        if kind in _HEADS:
            node['type'] = _HEADS[kind]
        # What heads of mmdet's own recipe of Cascade RPN need, and no longer take.
        if kind == 'CascadeRPNHead':
            node.setdefault('num_classes', 1)
        if kind == 'StageCascadeRPNHead':
            node.pop('sampling', None)
        return (kind in _HEADS) + sum(map(_replace, node.values()))
    return sum(map(_replace, node)) if isinstance(node, (list, tuple)) else 0


def leave_out_whole_model(cfg: Config) -> list[str]:
    """Leave out the trained model that a recipe starts from, where another backbone is put into it.

    Returns:
        Its checkpoints.
    """
    found = starts_of_whole_model(cfg)
    cfg.load_from = None
    if 'model.init_cfg' in found:
        cfg.model.pop('init_cfg')
    return list(found.values())


def starts_of_whole_model(cfg: Config) -> dict[str, str]:
    """The trained models that a config starts from, backbone and heads, by their keys in it."""
    found = {'load_from': cfg.get('load_from')}
    start = (cfg.get('model') or {}).get('init_cfg')
    if isinstance(start, Mapping) and start.get('type') == 'Pretrained':
        found['model.init_cfg'] = start.get('checkpoint')
    return {key: checkpoint for key, checkpoint in found.items() if checkpoint}


def evaluates_proposals(metric: Mapping) -> bool:
    """Whether the config of a ``CocoMetric`` asks for the recall of proposals, alone or beside others."""
    kinds = metric.get('metric') or ()
    return 'proposal_fast' in ([kinds] if isinstance(kinds, str) else kinds)


def use_proposal_recall(cfg: Config) -> None:
    """Let evaluators of an RPN's proposals in ``cfg`` be the suite's: mmdet's fail with current NumPy."""
    for key in ('val_evaluator', 'test_evaluator'):
        evaluator = cfg.get(key) or ()
        for metric in [evaluator] if isinstance(evaluator, dict) else evaluator:
            kind = str(metric.get('type')).removeprefix('mmdet.')
            if kind == 'CocoMetric' and evaluates_proposals(metric):
                metric['type'] = 'ProposalRecallMetric'
                import_with(cfg, _REGISTERED_BY)


def use_decoder_of_file(cfg: Config, state: Mapping[str, Tensor], source: str) -> None:
    """Let mmdet's ``DINO`` have the published decoder where a checkpoint has it.

    onedl-mmdetection's ``DINO`` has a decoder of its own, whose checkpoints stay with it.

    Args:
        cfg: A config of a detector; changed in place.
        state: Tensors of the checkpoint that it will load.
        source: Their file, for the log.
    """
    model = cfg.get('model') or {}
    if str(model.get('type')).removeprefix('mmdet.') != 'DINO':
        return
    shapes = [tuple(v.shape) for key, v in state.items() if key.endswith(_REFERENCE_WEIGHT)]
    if shapes and shapes[0][1] == 2 * shapes[0][0]:
        model['type'] = 'DINODetector'
        import_with(cfg, _REGISTERED_BY)
        print_log(
            f'{source} has the decoder of DINO as published: model.type is DINODetector.', 'current'
        )
