"""RoIAlign, on a CPU in C where it can be compiled: torchvision's uses one thread, sample by sample."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor

from backbones.upstream import required

from .build import call, load_library
from .eager import is_plain_eager

_torchvision_backward = required('torch.ops.torchvision._roi_align_backward')
_KINDS = 'ppp' + 'n' * 9 + 'ft'


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``roi_align.c``; None where it cannot be compiled."""
    source = Path(__file__).with_name('roi_align.c')
    return load_library(source, {'roi_align': _KINDS, 'roi_align_backward': _KINDS})


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
        if not self._can_use_c(maps, boxes):
            options = (self.scale, *self.size, self.sampling, self.aligned)
            return torch.ops.torchvision.roi_align(maps, boxes, *options)
        maps = maps.contiguous(memory_format=torch.channels_last)
        out = maps.new_empty(len(boxes), maps.shape[1], *self.size)
        self._run(compiled().roi_align, maps, boxes, out, maps.shape)
        return out

    def back(self, grad: Tensor, boxes: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Gradient of the maps, of ``shape`` ``(N, C, H, W)``, from that of the result."""
        if not self._can_use_c(grad, boxes):
            options = (self.scale, *self.size, *shape, self.sampling, self.aligned)
            return _torchvision_backward(grad, boxes, *options)
        maps = torch.empty(shape, memory_format=torch.channels_last).zero_()
        self._run(compiled().roi_align_backward, grad.contiguous(), boxes, maps, shape)
        return maps

    @staticmethod
    def _can_use_c(*tensors: Tensor) -> bool:
        return compiled() is not None and all(
            t.device.type == 'cpu' and t.dtype == torch.float32 and is_plain_eager(t)
            for t in tensors
        )

    def _run(self, function, source: Tensor, boxes: Tensor, out: Tensor, shape) -> None:
        count, channels, height, width = shape
        boxes = boxes.contiguous()
        sizes = (count, height, width, channels, len(boxes), *self.size)
        call(function, source, boxes, out, *sizes, self.sampling, self.aligned, self.scale)
