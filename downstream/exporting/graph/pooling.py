"""Pooling in forms that a trace holds for maps of every size."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

# One number for height and width, or one for each.
Sides = int | list[int] | tuple[int, ...]


def contiguous(x: Tensor) -> Tensor:
    """A copy in memory as its shape says, made without a question about the sizes of ``x``."""
    return x.clone(memory_format=torch.contiguous_format)


def maximum(
    x: Tensor,
    kernel_size: Sides,
    *,
    stride: Sides | None,
    padding: Sides,
    dilation: Sides,
    ceil_mode: bool,
    return_indices: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`torch.nn.functional.max_pool2d`, of a map that its windows fill.

    PyTorch gives a function mode all arguments but the first two by name.
    """
    windows = _windows(x, kernel_size, stride, padding, dilation)
    if return_indices:
        words = (x, kernel_size, stride, padding, dilation, ceil_mode)
        return F.max_pool2d(*words, return_indices=True)
    if all(window.reach == 1 and not window.pad for window in windows):
        return _every_nth(x, windows)
    if not _leaves_open(windows, ceil_mode):
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    x = _filled(x, windows, ceil_mode, -inf)
    return F.max_pool2d(x, kernel_size, stride, 0, dilation)


def average(
    x: Tensor,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool2d`, of a map that its windows fill."""
    windows = _windows(x, kernel_size, stride, padding, 1)
    if not _leaves_open(windows, ceil_mode):
        words = (ceil_mode, count_include_pad, divisor_override)
        return F.avg_pool2d(x, kernel_size, stride, padding, *words)
    pooled = F.avg_pool2d(_filled(x, windows, ceil_mode, 0), kernel_size, stride)
    cells = prod(window.reach for window in windows)
    if divisor_override:
        return pooled * (cells / divisor_override)
    if not ceil_mode and (count_include_pad or not any(window.pad for window in windows)):
        return pooled
    # Cells of each row of windows, and of each column, that are in the map or in the padding that counts.
    high, wide = (
        window.counted(count, count_include_pad, x)
        for window, count in zip(windows, pooled.shape[-2:])
    )
    return pooled * (cells / (high[:, None] * wide))


def adaptive_average(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d`, as two matrix products."""
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


class _Window(NamedTuple):
    """The windows along one side of a map.

    Attributes:
        size: Cells of the map, which may be symbolic.
        reach: From the first cell of a window to its last.
        step: From a window to the next.
        pad: Cells before the map, and as many behind it.
    """

    size: int
    reach: int
    step: int
    pad: int

    @property
    def rest(self) -> int:
        """Cells of the padded map that no whole window reaches."""
        return (self.size + 2 * self.pad - self.reach) % self.step

    def filled(self, ceil_mode: bool) -> int:
        """Cells from the begin of the first window to the end of the last.

        Made of the number of windows, written as a convolution's is: a tracer then sees that both agree.
        """
        length = self.size + 2 * self.pad - self.reach + (self.step - 1 if ceil_mode else 0)
        return length // self.step * self.step + self.reach

    def counted(self, count: int, with_padding: bool, like: Tensor) -> Tensor:
        """How many cells of each of ``count`` windows an average is taken of, ``(count,)``."""
        begin = torch.arange(count, device=like.device) * self.step - self.pad
        end = (begin + self.reach).clamp(max=self.size + (self.pad if with_padding else 0))
        return (end - (begin if with_padding else begin.clamp(min=0))).to(like.dtype)


def _windows(
    x: Tensor, kernel_size: Sides, stride: Sides | None, padding: Sides, dilation: Sides
) -> list[_Window]:
    sides = map(_pair, (kernel_size, stride or kernel_size, padding, dilation))
    return [
        _Window(size, spacing * (kernel - 1) + 1, step, pad)
        for size, kernel, step, pad, spacing in zip(x.shape[-2:], *sides)
    ]


def _leaves_open(windows: Sequence[_Window], ceil_mode: bool) -> bool:
    """Whether the windows may end before or behind the map, by its size, and can be made to fill it."""
    if all(statically_known_true(window.rest == 0) for window in windows):
        return False
    # A last window that begins behind the map is left out, which depends on the size too.
    return not ceil_mode or all(w.pad + w.step <= w.reach for w in windows)


def _filled(x: Tensor, windows: Sequence[_Window], ceil_mode: bool, value: float) -> Tensor:
    """A map with its padding, and without the end that no window reaches or with a whole last window."""
    high, wide = windows
    height, width = (w.filled(ceil_mode) for w in windows)
    ends = [w.pad for w in windows]
    if ceil_mode:
        ends = [filled - w.size - w.pad for filled, w in zip((height, width), windows)]
    x = F.pad(x, (wide.pad, ends[1], high.pad, ends[0]), value=value)
    return x if ceil_mode else contiguous(x.narrow(-2, 0, height).narrow(-1, 0, width))


def _every_nth(x: Tensor, windows: Sequence[_Window]) -> Tensor:
    """``x[:, :, ::s, ::t]`` in memory of its own: strides of a slice raise questions about sizes."""
    for dim, window in zip((-2, -1), windows):
        x = x.index_select(dim, torch.arange(0, x.shape[dim], window.step, device=x.device))
    return x


def _pair(value: Sides) -> Sequence[int]:
    if isinstance(value, int):
        return value, value
    return tuple(value) * (2 if len(value) == 1 else 1)
