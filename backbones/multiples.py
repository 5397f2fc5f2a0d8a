"""Images whose sides are multiples of a number, at sizes that an exporter may leave open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cells(length: int, size: int) -> int:
    """``length / size``, rounded up; for a map, ``size`` is its stride.

    Files of ONNX divide integers towards 0, so that the usual ``-(-length // size)`` would be too small.
    """
    return (length + size - 1) // size


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """``(..., H, W)`` with zeros below and on the right, to sides that are multiples of ``divisor``.

    Returns ``x`` itself where nothing is missing. A size that a tracer leaves open is padded by what is
    missing in each image, unless it can only be a multiple.
    """
    height, width = x.shape[-2:]
    down, right = (cells(size, divisor) * divisor - size for size in (height, width))
    if _is_zero(down) and _is_zero(right):
        return x
    return F.pad(x, (0, right, 0, down))


def crop_to_stride(x: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The part of a map that lies within an image of ``height`` and ``width`` pixels."""
    return x[..., : cells(height, stride), : cells(width, stride)]


def _is_zero(number: int | torch.SymInt) -> bool:
    """Whether a number is 0; for a symbolic one, whether it always is, which is no condition on sizes."""
    if isinstance(number, torch.SymInt):
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(number == 0)
    return number == 0
