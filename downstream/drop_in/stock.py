"""The detector or segmenter that a config comes with: the maps that its own backbone returns, methods
that take no other backbone, and what is replaced together with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor

from backbones.errors import ConfigError
from backbones.uninitialised import on_meta

from .facts import TRIED, run_once

# Parts of models that take what no other backbone returns, and why.
_BOUND = {
    'HourglassNet': 'its heads read the stacks of an hourglass network',
    'TridentResNet': 'its method is in the blocks of its backbone, three dilations of one convolution',
    'RFP': 'its neck, RFP, feeds maps back into a backbone of its own kind',
    'DDRHead': 'DDRHead reads the two branches of DDRNet',
    'PIDHead': 'PIDHead reads the three branches of PIDNet',
    'DPTHead': 'DPTHead reads the class token of a ViT beside each map',
    'MLANeck': 'its neck, MLANeck, adds four maps of one stride, those of a plain ViT',
    'VPDDepthHead': 'VPDDepthHead reads the maps of a diffusion model',
}
# Necks that make strides out of the maps of a plain ViT.
_FOR_PLAIN_VITS = ('Feature2Pyramid', 'MultiLevelNeck')
# Detectors of mmdet that downstream.detection.dino has with the decoder as published.
_OF_THE_SUITE = {'DINO': 'DINODetector', 'GroundingDINO': 'GroundingDINODetector'}


@dataclass(frozen=True)
class StockMaps:
    """What the maps of a config's own backbone are.

    Attributes:
        count: How many; None where neither its config nor a trial pass shows it.
        strides: Their strides; None where it cannot be built and run.
    """

    count: int | None
    strides: tuple[float, ...] | None

    @property
    def are_sorted(self) -> bool:
        """Whether every map is coarser than the one before: not so where convolutions are dilated."""
        strides = self.strides or ()
        return bool(strides) and all(a < b for a, b in itertools.pairwise(strides))


def stock_maps(backbone: Mapping) -> StockMaps:
    """The maps of the backbone with this config, by a trial pass on the meta device if that can run."""
    indices = backbone.get('out_indices')
    count = len(indices) if isinstance(indices, Sequence) else None
    arguments = {k: v for k, v in backbone.items() if k not in ('init_cfg', 'pretrained')}
    try:
        with on_meta():
            maps = run_once(MODELS.build(arguments), TRIED, arguments.get('in_channels', 3))
    except Exception:  # what is replaced need not be buildable
        return StockMaps(count, None)
    found = [maps] if isinstance(maps, Tensor) else maps
    if not isinstance(found, (list, tuple)) or not all(
        isinstance(m, Tensor) and m.ndim == 4 for m in found
    ):
        return StockMaps(count, None)
    return StockMaps(len(found), tuple(TRIED[0] / m.shape[2] for m in found))


def inner_model(model: ConfigDict) -> ConfigDict:
    """The part of ``model`` that has the backbone: semi-supervised and tracking ones have a detector."""
    inner = model.get('detector')
    # detectron2's, in its wrapper, is no config of mmdet: it has no type.
    if (
        'backbone' not in model
        and isinstance(inner, Mapping)
        and {'backbone', 'type'} <= set(inner)
    ):
        return inner
    return model


def require_replaceable(name: str, model: Mapping) -> None:
    """Check that a model takes another backbone.

    Args:
        name: Of the backbone, for the message.
        model: What :func:`inner_model` returns.

    Raises:
        ConfigError: It does not; the message says why.
    """
    kind = model.get('type')
    start = f'backbone {name!r} cannot be put into this {kind}: '
    if not model.get('backbone'):
        raise ConfigError(f'{start}its config has no model.backbone.')
    parts = [model['backbone'], *_parts(model.get('neck')), *_parts(model.get('decode_head'))]
    for part in parts:
        reason = _BOUND.get(str(part.get('type')).rpartition('.')[2])
        if reason:
            raise ConfigError(f'{start}{reason}.')
    if (model.get('roi_head') or {}).get('shared_head'):
        raise ConfigError(
            f"{start}its roi_head.shared_head is the last stage of its own backbone; take the method's "
            'recipe with FPN.'
        )


def with_published_decoder(model: dict) -> list[tuple[str, str]]:
    """Replace a detector whose decoder is not the published one in onedl-mmdetection.

    Returns:
        What the report says of it.
    """
    kind = str(model.get('type')).rpartition('.')[2]
    if kind not in _OF_THE_SUITE:
        return []
    model['type'] = _OF_THE_SUITE[kind]
    return [('detector', f'{model["type"]}: {kind} of mmdet with the decoder as published')]


def without_neck_for_plain_vits(model: dict) -> str | None:
    """Remove the neck that makes strides out of a plain ViT's maps; returns its type."""
    neck = model.get('neck')
    if isinstance(neck, Mapping) and neck.get('type') in _FOR_PLAIN_VITS:
        return str(model.pop('neck').get('type'))
    return None


def _parts(value: object) -> list[Mapping]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [part for part in values if isinstance(part, Mapping)]
