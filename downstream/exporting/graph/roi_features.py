"""Features of boxes from a pyramid, as mmdet's ``SingleRoIExtractor`` takes them, exportable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor


@dataclass(frozen=True)
class PyramidAlign:
    """RoIAlign on the level that fits the size of each box.

    Args:
        scales: Cells per pixel of each level, finest first.
        size: Height and width of the result.
        sampling_ratio: Samples along a side of a bin; 0: as many as the bin has cells.
        aligned: Whether pixel centres have integer coordinates plus a half.
        finest_scale: Boxes below twice this, in pixels, are taken from the finest level.
    """

    scales: Sequence[float]
    size: tuple[int, int]
    sampling_ratio: int
    aligned: bool
    finest_scale: float

    def __call__(self, feats: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Sample boxes of one image.

        Each level samples its own boxes alone: on the finest one a large box costs thousands of samples.

        Args:
            feats: One ``(1, C, H, W)`` a level, float32; those beyond ``scales`` are not used.
            boxes: ``(n, 4)``, float32.

        Returns:
            ``(n, C, *size)``.
        """
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        if len(self.scales) == 1:
            return self._align(feats[0], rois, self.scales[0])
        members = self._members(boxes)
        sampled = [
            self._align(feat, rois[members[:, level].nonzero().squeeze(1)], scale)
            for level, (feat, scale) in enumerate(zip(feats, self.scales, strict=False))
        ]
        return torch.cat(sampled)[_places(members)]

    def _align(self, feat: Tensor, rois: Tensor, scale: float) -> Tensor:
        return torchvision.ops.roi_align(
            feat, rois, self.size, scale, self.sampling_ratio, self.aligned
        )

    def _members(self, boxes: Tensor) -> Tensor:
        """Whether a box belongs to a level, ``(n, levels)``; one True a row."""
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        scale = (width * height).sqrt() / self.finest_scale + 1e-6
        # floor(log2(scale)) by comparisons: runtimes compute log2 as a quotient, which rounds otherwise.
        limits = scale.new_tensor([2.0**level for level in range(1, len(self.scales))])
        level = (scale[:, None] >= limits).sum(1)
        return level[:, None] == torch.arange(len(self.scales), device=boxes.device)


def _places(members: Tensor) -> Tensor:
    """Where each box stands when the boxes are put in order of their levels, ``(n,)``."""
    members = members.to(torch.int64)
    counts = members.sum(0)
    starts = counts.cumsum(0) - counts
    return ((members.cumsum(0) - 1 + starts) * members).sum(1)
