"""Adaptive average pooling as two matrix products, which every format has at every size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class MatrixPooling(TorchFunctionMode):
    """Within it, :func:`torch.nn.functional.adaptive_avg_pool2d` is two matrix products.

    ONNX has no such operator. An exporter unrolls it for the size that it happens to see, and the file is
    wrong, or fails, at all others.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            return _pooled(*args, **kwargs)
        return func(*args, **kwargs)


def _pooled(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """``(..., H, W)`` averaged to ``(..., *output_size)``, as PyTorch divides a length into bins."""
    sizes = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
    x = input
    if sizes[0] is not None:
        x = averaging_matrix(x.shape[-2], sizes[0], x) @ x
    if sizes[1] is not None:
        x = x @ averaging_matrix(x.shape[-1], sizes[1], x).T
    return x


def averaging_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """``(bins, length)``: row i averages positions from ``floor(i L / s)`` to ``ceil((i + 1) L / s)``.

    Args:
        length: L, which may be symbolic.
        bins: s.
        like: Its dtype and device are those of the result.
    """
    row = torch.arange(bins, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)[None]
    begin = (row * length) // bins
    end = ((row + 1) * length + bins - 1) // bins
    inside = (position >= begin) & (position < end)
    return inside.to(like.dtype) / (end - begin).to(like.dtype)
