"""mmcv's deformable RoI pooling (Dai et al. 2017, arXiv 1703.06211): RoIAlign with offsets of bins.

The gradient is the derivative; mmcv's kernels extrapolate that of the offsets of samples within a pixel
beyond the border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .dtypes import compute_dtype

# Numbers that are sampled at a time.
_AT_A_TIME = 2**24


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the means of bilinear samples in the bins of boxes to ``output``.

    Args:
        input: ``(N, C, H, W)``.
        rois: Image, x1, y1, x2, y2, ``(K, 5)``.
        offset: x, y of each bin, in sides of the box, ``(K, 2, *size)``; may be empty.
        output: ``(K, C, *size)``.
        pooled_height, pooled_width: ``size``: number of bins.
        spatial_scale: Scale of the map relative to the image.
        sampling_ratio: Number of samples along each side of a bin; 0: one for each pixel of the map.
        gamma: Factor of the offsets.
    """
    pool = _Pool((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    dtype = compute_dtype(input.dtype)
    output.zero_()
    for image, chunk, grid in pool.chunks(rois, input.shape[1]):
        maps, boxes = input[image].to(dtype), rois[chunk, 1:].to(dtype)
        moved = offset[chunk].to(dtype) if offset.numel() else None
        output[chunk] = pool(maps, boxes, moved, grid).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients of :func:`deform_roi_pool_forward` to ``grad_input`` and ``grad_offset``."""
    pool = _Pool((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    dtype = compute_dtype(input.dtype)
    grad_maps = torch.zeros_like(input, dtype=dtype)
    grad_offset.zero_()
    for image, chunk, grid in pool.chunks(rois, input.shape[1]):
        with torch.enable_grad():
            sources = [input[image].detach().to(dtype, copy=True).requires_grad_()]
            if offset.numel():
                sources.append(offset[chunk].detach().to(dtype, copy=True).requires_grad_())
            boxes = rois[chunk, 1:].detach().to(dtype)
            out = pool(sources[0], boxes, sources[1] if offset.numel() else None, grid)
        grads = torch.autograd.grad(out, sources, grad_output[chunk].to(dtype))
        grad_maps[image] += grads[0]
        if offset.numel():
            grad_offset[chunk] = grads[1].to(grad_offset.dtype)
    grad_input.copy_(grad_maps)


@dataclass(frozen=True)
class _Pool:
    size: tuple[int, int]
    scale: float
    sampling: int
    gamma: float

    def chunks(self, rois: Tensor, channels: int) -> Iterator[tuple[int, Tensor, tuple[int, int]]]:
        """Boxes of one image with one number of samples: image, their indices, samples along y and x."""
        sides = (rois[:, [4, 3]] - rois[:, [2, 1]]).to(compute_dtype(rois.dtype)) * self.scale
        bins = torch.tensor(self.size, device=rois.device)
        grids = (
            (sides / bins).ceil() if self.sampling <= 0 else torch.full_like(sides, self.sampling)
        )
        keys = torch.cat([rois[:, :1].to(grids.dtype), grids], 1).long()
        kinds, members = keys.unique(dim=0, return_inverse=True)
        for kind, (image, along_y, along_x) in enumerate(kinds.tolist()):
            if along_y <= 0 or along_x <= 0:
                continue  # no samples: zeros
            each = channels * self.size[0] * self.size[1] * along_y * along_x
            own = (members == kind).nonzero()[:, 0]
            for chunk in own.split(max(_AT_A_TIME // each, 1)):
                yield image, chunk, (along_y, along_x)

    def __call__(
        self, maps: Tensor, boxes: Tensor, offset: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """Means ``(K, C, *size)`` of samples of ``(C, H, W)`` in the bins of boxes ``(K, 4)``."""
        x1, y1, x2, y2 = (boxes * self.scale - 0.5).T
        moved = (None, None) if offset is None else (offset[:, 1], offset[:, 0])
        y = self._along(y1, y2 - y1, moved[0], 0, grid[0])[..., :, None]
        x = self._along(x1, x2 - x1, moved[1], 1, grid[1])[..., None, :]
        y, x = torch.broadcast_tensors(y, x)  # (K, *size, *grid)
        height, width = maps.shape[1:]
        counts = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        # Pixel centres are at whole numbers, and grid_sample's interval reaches from edge to edge.
        at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        samples = F.grid_sample(
            maps[None],
            at.reshape(1, -1, grid[0] * grid[1], 2),
            padding_mode='border',
            align_corners=False,
        )
        means = (samples * counts.reshape(1, 1, -1, grid[0] * grid[1])).mean(-1)
        return means.view(len(maps), len(boxes), *self.size).transpose(0, 1)

    def _along(
        self, start: Tensor, side: Tensor, offset: Tensor | None, axis: int, count: int
    ) -> Tensor:
        """Coordinates ``(K, *size, count)`` of the samples along an axis."""
        bins = self.size[axis]
        device, dtype = start.device, start.dtype
        step = (torch.arange(count, device=device, dtype=dtype) + 0.5) / count
        place = torch.arange(bins, device=device, dtype=dtype)[:, None] + step  # in bins
        at = start[:, None, None] + place * (side / bins)[:, None, None]
        at = at[:, :, None] if axis == 0 else at[:, None]
        if offset is not None:
            at = at + (self.gamma * side[:, None, None] * offset)[..., None]
        return at.expand(-1, *self.size, -1)
