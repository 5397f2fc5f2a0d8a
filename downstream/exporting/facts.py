"""What an exported file says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmengine.config import Config
from torch import nn

from downstream.data.pipelines import innermost, is_annotation_loader, is_image_loader, steps_of

from .graph.picture import PictureRules
from .standalone import FORMAT
from .trace import Shape


def facts_of(
    cfg: Config,
    model: nn.Module,
    rules: PictureRules,
    shape: Shape,
    outputs: Sequence[str],
    stated: Mapping,
) -> dict:
    """The metadata of a file, as JSON has them.

    Args:
        cfg: A complete config to test with.
        model: What was built of it.
        rules: What the file does to a picture.
        shape: The pictures that it takes.
        outputs: Names of what it returns.
        stated: What the caller knows: ``classes``, ``palette``, ``shift``, ``precision``, ``licence``,
            ``config``, ``stride``.
    """
    facts = {
        'format': FORMAT,
        'suite': f'convnext-dense {_own_version()}',
        **stated,
        'parameters': sum(parameter.numel() for parameter in model.parameters()),
        'input': {
            'layout': 'NHWC',
            'order': 'BGR' if shape.dtype == 'uint8' else 'bands',
            'dtype': shape.dtype,
            'batch': shape.batch,
            'height': shape.height,
            'width': shape.width,
            'channels': shape.channels,
        },
        'outputs': list(outputs),
        'resize': resize_rule(innermost(cfg.test_dataloader.dataset).get('pipeline') or ()),
        'mean': list(rules.mean),
        'std': list(rules.std),
        'channels_exchanged': rules.exchanges_channels,
        'padded_to': {'multiple': rules.divisor, 'least': list(rules.least)},
    }
    of_task = _of_segmenter if cfg.default_scope == 'mmseg' else _of_detector
    return facts | of_task(model, outputs)


def _of_segmenter(model: Any, outputs: Sequence[str]) -> dict:
    testing = model.test_cfg or {}
    inference: dict = {'mode': testing.get('mode', 'whole')}
    if inference['mode'] == 'slide':
        inference |= {'crop': list(testing['crop_size']), 'stride': list(testing['stride'])}
    threshold = getattr(model.decode_head, 'threshold', None)
    return {
        'task': 'segmentation',
        'output': outputs[0],
        'inference': inference,
        'score_channels': model.out_channels,
        'threshold': None if threshold is None else float(threshold),
    }


def _of_detector(model: Any, outputs: Sequence[str]) -> dict:
    testing = model.roi_head.test_cfg
    return {
        'task': 'detection',
        'score_threshold': float(testing.score_thr),
        'most_objects': int(testing.max_per_img),
        'mask_threshold': float(testing.mask_thr_binary) if 'masks' in outputs else None,
        'nms': dict(testing.nms),
    }


def resize_rule(pipeline: Sequence[Mapping]) -> dict | None:
    """How a test pipeline changes the size of pictures: ``scale`` and ``keep_ratio``.

    None: it does not. ``unknown`` names transforms that no short rule describes.
    """
    rule: dict | None = None
    unknown: list[str] = []
    for step in steps_of(pipeline):
        kind = str(step.get('type')).rpartition('.')[2]
        if is_image_loader(step) or is_annotation_loader(step) or kind.startswith('Pack'):
            continue
        scale = step.get('scale')
        if kind == 'Resize' and scale and not unknown and rule is None:
            scale = [scale, scale] if isinstance(scale, int) else list(scale)
            rule = {'scale': scale, 'keep_ratio': bool(step.get('keep_ratio', False))}
        else:
            unknown.append(kind)
    return {'unknown': unknown} if unknown else rule


def _own_version() -> str:
    try:
        return version('convnext-dense')
    except PackageNotFoundError:
        return '(version unknown)'
