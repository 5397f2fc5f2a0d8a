"""Parts of mmdet's models that the suite replaces in every config, whatever its backbone."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor

# Heads that train and fail in their prediction (downstream.detection.heads).
_HEADS = {
    'SSDHead': 'PredictingSSDHead',
    'DynamicMaskHead': 'PredictingDynamicMaskHead',
}
# Of DINO's decoder: turns encoded reference boxes into queries. onedl-mmdetection's is twice as wide.
_REFERENCE_WEIGHT = 'decoder.ref_point_head.layers.0.weight'


def use_predicting_heads(node: object) -> None:
    """Let heads of a config that cannot predict be the suite's, which are equal but for that.

    Args:
        node: A dict, list or tuple of a config; changed in place.
    """
    if isinstance(node, dict):
        kind = node.get('type')
        if isinstance(kind, str):
            node['type'] = _HEADS.get(kind.removeprefix('mmdet.'), kind)
        for value in node.values():
            use_predicting_heads(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            use_predicting_heads(value)


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
        print_log(
            f'{source} has the decoder of DINO as published: model.type is DINODetector.', 'current'
        )
