"""Float32 box coordinates under mixed precision.

float16 and bfloat16 have 11 and 8 bits: a coordinate of 1,300 px is off by up to 0.5 and 4 px. mmdet
rounds RoIs to the type of the features before RoIAlign, and makes the anchors of its proposals in
the type of the network's output. Both keep float32 here; only the features are of reduced precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# A feature map -> its form for RoIAlign, as long as the map lives. The heads of a cascade have extractors
# of their own, which all sample the same maps.
_prepared = WeakTensorKeyDictionary()


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` that samples float16 and bfloat16 features at float32 RoIs."""

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """``feats``: one ``(N, C, H, W)`` a level; ``rois``: ``(K, 5)``; returns ``(K, C, h, w)``."""
        sampled = super().forward([_prepare(feat) for feat in feats], rois, roi_scale_factor)
        return sampled.to(feats[0].dtype)


def _prepare(feat: Tensor) -> Tensor:
    """A feature map in float32 at least and in the layout that RoIAlign reads, made once per map."""
    exact = torch.promote_types(feat.dtype, torch.float32)
    # The C code of the CPU reads channels_last, torchvision's CUDA kernel NCHW.
    layout = torch.channels_last if feat.device.type == 'cpu' else torch.contiguous_format
    has_gradient = feat.requires_grad and torch.is_grad_enabled()
    known = _prepared.get(feat)
    if known is not None and known.requires_grad == has_gradient:
        return known
    prepared = feat.to(exact, memory_format=layout)
    # An entry that holds its own key would live for ever: the map itself, or a leaf of the graph.
    if prepared is not feat and not (has_gradient and feat.is_leaf):
        _prepared[feat] = prepared
    return prepared


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """mmdet's ``RPNHead`` whose scores and box deltas, and so its proposals, are float32."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x``: ``(N, C, H, W)``; returns scores ``(N, A, H, W)`` and deltas ``(N, 4 A, H, W)``."""
        scores, deltas = super().forward_single(x)
        exact = torch.promote_types(x.dtype, torch.float32)
        return scores.to(exact), deltas.to(exact)
