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


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` that samples float16 and bfloat16 features at float32 RoIs."""

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """``feats``: one ``(N, C, H, W)`` a level; ``rois``: ``(K, 5)``; returns ``(K, C, h, w)``."""
        dtype = feats[0].dtype
        exact = torch.promote_types(dtype, torch.float32)
        sampled = super().forward([feat.to(exact) for feat in feats], rois, roi_scale_factor)
        return sampled.to(dtype)


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """mmdet's ``RPNHead`` whose scores and box deltas, and so its proposals, are float32."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x``: ``(N, C, H, W)``; returns scores ``(N, A, H, W)`` and deltas ``(N, 4 A, H, W)``."""
        scores, deltas = super().forward_single(x)
        exact = torch.promote_types(x.dtype, torch.float32)
        return scores.to(exact), deltas.to(exact)
