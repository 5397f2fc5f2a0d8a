"""Which detectors :class:`downstream.exporting.graph.detector.DetectorGraph` knows how to export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import CascadeRCNN, FasterRCNN, MaskRCNN, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import (
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import nn

from backbones.errors import ConfigError
from downstream.detection.precision import Float32RoIExtractor, Float32RPNHead

DETECTORS = (TwoStageDetector, FasterRCNN, MaskRCNN, CascadeRCNN)
RPN_HEADS = (RPNHead, Float32RPNHead)
ROI_HEADS = (StandardRoIHead, CascadeRoIHead)
BOX_HEADS = (BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
EXTRACTORS = (SingleRoIExtractor, Float32RoIExtractor)


def stages(heads: nn.Module) -> list[Any]:
    """The heads or extractors of each stage of a RoI head; a standard one has a single stage."""
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def check_detector(model: Any) -> None:
    """Stop with one line where a part of a detector computes what the exported graph does not.

    Classes are compared exactly: a subclass may predict differently.

    Raises:
        ConfigError: The part, its class, and which classes can be exported.
    """
    _require('the detector', model, DETECTORS)
    if not (model.with_rpn and model.with_roi_head):
        raise ConfigError(
            'The detector has no rpn_head or no roi_head; those with both can be exported.'
        )
    _require('rpn_head', model.rpn_head, RPN_HEADS)
    _require('rpn_head.prior_generator', model.rpn_head.prior_generator, (AnchorGenerator,))
    _require('rpn_head.bbox_coder', model.rpn_head.bbox_coder, (DeltaXYWHBBoxCoder,))
    roi_head = model.roi_head
    _require('roi_head', roi_head, ROI_HEADS)
    if roi_head.with_shared_head:
        raise ConfigError('roi_head.shared_head cannot be exported; detectors with an FPN can.')
    for head in stages(roi_head.bbox_head):
        _require('roi_head.bbox_head', head, BOX_HEADS)
        if not head.with_reg or head.custom_activation:
            raise ConfigError(
                'roi_head.bbox_head: heads without box regression, or whose loss has an activation of '
                'its own, cannot be exported; heads with softmax and boxes can.'
            )
    for head in stages(roi_head.mask_head) if roi_head.with_mask else ():
        _require('roi_head.mask_head', head, (FCNMaskHead,))
        if head.upsample_method == 'carafe':
            raise ConfigError(
                'roi_head.mask_head: upsampling by carafe cannot be exported; deconv can.'
            )
    for coder in (model.rpn_head.bbox_coder, *_coders(roi_head)):
        _require('bbox_coder', coder, (DeltaXYWHBBoxCoder,))
        if coder.add_ctr_clamp:
            raise ConfigError('bbox_coder.add_ctr_clamp=True cannot be exported; set it to False.')
    for extractor in _extractors(roi_head):
        _require('roi_extractor', extractor, EXTRACTORS)
        layer = extractor.roi_layers[0]
        _require('roi_layer', layer, (RoIAlign,))
        if layer.pool_mode != 'avg':
            raise ConfigError(
                f'roi_layer.pool_mode={layer.pool_mode!r} cannot be exported; avg can.'
            )


def _coders(roi_head: Any) -> Iterator:
    return (head.bbox_coder for head in stages(roi_head.bbox_head))


def _extractors(roi_head: Any) -> Iterator[Any]:
    yield from stages(roi_head.bbox_roi_extractor)
    if roi_head.with_mask:
        yield from stages(roi_head.mask_roi_extractor)


def _require(name: str, part: object, classes: Sequence[type]) -> None:
    if type(part) not in classes:
        known = ', '.join(sorted(known.__name__ for known in classes))
        raise ConfigError(
            f'{name} is a {type(part).__name__}, which cannot be exported; known: {known}.'
        )
