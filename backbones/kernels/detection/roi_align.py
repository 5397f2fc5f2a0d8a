"""RoIAlign, on a CPU in C where it can be compiled: torchvision's uses one thread, sample by sample."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor

from backbones.upstream import required

from ..build import call, load_library
from ..eager import is_plain_eager

_torchvision_backward = required('torch.ops.torchvision._roi_align_backward')
# Of the deterministic gradient, whose memory grows with them.
_BOXES_AT_A_TIME = 32
_KINDS = 'ppp' + 'n' * 9 + 'ft'


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``roi_align.c``; None where it cannot be compiled."""
    source = Path(__file__).with_name('roi_align.c')
    return load_library(source, {'roi_align': _KINDS, 'roi_align_backward': _KINDS})


def _library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The compiled library, if there is one and it can read these tensors."""
    if all(
        t.device.type == 'cpu' and t.dtype == torch.float32 and is_plain_eager(t) for t in tensors
    ):
        return compiled()
    return None


@dataclass(frozen=True)
class RoIAlign:
    """RoIAlign (He et al. 2017) with the mean of its samples.

    Args:
        size: Number of bins along height and width.
        scale: Scale of the feature map relative to the image.
        sampling: Number of samples along each side of a bin; 0: one for each pixel of the map.
        aligned: Whether pixel centres are at half coordinates.
    """

    size: tuple[int, int]
    scale: float
    sampling: int
    aligned: bool

    def __call__(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Features ``(K, C, *size)`` of boxes ``(K, 5)`` (image, x1, y1, x2, y2) in ``(N, C, H, W)``."""
        library = _library_for(maps, boxes)
        if library is None:
            options = (self.scale, *self.size, self.sampling, self.aligned)
            return torch.ops.torchvision.roi_align(maps, boxes, *options)
        maps = maps.contiguous(memory_format=torch.channels_last)
        out = maps.new_empty(len(boxes), maps.shape[1], *self.size)
        self._run(library.roi_align, maps, boxes, out, maps.shape)
        return out

    def back(self, grad: Tensor, boxes: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Gradient of the maps, of ``shape`` ``(N, C, H, W)``, from that of the result."""
        if grad.is_cuda and torch.are_deterministic_algorithms_enabled():
            return self._back_deterministically(grad, boxes, shape)
        library = _library_for(grad, boxes)
        if library is None:
            options = (self.scale, *self.size, *shape, self.sampling, self.aligned)
            return _torchvision_backward(grad, boxes, *options)
        maps = torch.empty(shape, memory_format=torch.channels_last).zero_()
        self._run(library.roi_align_backward, grad.contiguous(), boxes, maps, shape)
        return maps

    def _back_deterministically(
        self, grad: Tensor, boxes: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """The gradient by matrix products: the CUDA kernel adds atomically, and raises in this mode.

        The mean of bilinear samples is separable: ``out[y, x]`` is the sum over ``h`` and ``w`` of
        ``rows[y, h] columns[x, w] map[h, w]``.
        """
        grad_maps = grad.new_zeros(shape)
        height, width = shape[2:]
        for image in range(shape[0]):
            own = (boxes[:, 0] == image).nonzero()[:, 0]
            # split() gives an empty chunk where an image has no box on this map
            for chunk in own.split(_BOXES_AT_A_TIME) if len(own) else ():
                x1, y1, x2, y2 = boxes[chunk, 1:].T
                rows = self._weights(y1, y2, self.size[0], height)
                columns = self._weights(x1, x2, self.size[1], width)
                spread = torch.einsum('kcyx,kxw->kycw', grad[chunk], columns).flatten(0, 1)
                grad_maps[image] += torch.einsum('ah,acw->chw', rows.flatten(0, 1), spread)
        return grad_maps

    def _weights(self, low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
        """Weights ``(K, bins, size)`` of the lines of a map in the bins of boxes ``(K,)``."""
        start = low * self.scale - (0.5 if self.aligned else 0)
        extent = (high - low) * self.scale
        extent = extent if self.aligned else extent.clamp(min=1)
        step = (extent / bins)[:, None, None]
        count = torch.full_like(step, self.sampling) if self.sampling > 0 else step.ceil()
        sample = torch.arange(int(count.max().clamp(min=0)), device=low.device, dtype=low.dtype)
        bin_start = start[:, None, None] + torch.arange(bins, device=low.device)[:, None] * step
        at = bin_start + (sample + 0.5) * step / count.clamp(min=1)
        counts = (sample < count) & (at >= -1) & (at <= size)
        lines = torch.arange(size, device=low.device, dtype=low.dtype)
        # Linear interpolation between lines is a hat around each line.
        hats = (1 - (at.clamp(0, size - 1)[..., None] - lines).abs()).clamp(min=0)
        return (hats * counts[..., None]).sum(2) / count.clamp(min=1)

    def _run(
        self,
        function: Callable[..., int],
        source: Tensor,
        boxes: Tensor,
        out: Tensor,
        shape: Sequence[int],
    ) -> None:
        count, channels, height, width = shape
        boxes = boxes.contiguous()
        sizes = (count, height, width, channels, len(boxes), *self.size)
        call(function, source, boxes, out, *sizes, self.sampling, self.aligned, self.scale)
