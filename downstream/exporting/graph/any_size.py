"""Operators that exporters write for the size that they happen to see, in forms for every size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true
from torch.overrides import TorchFunctionMode


class AnySize(TorchFunctionMode):
    """Within it, operators compute the same in a form that a trace holds for pictures of every size.

    - :func:`torch.nn.functional.adaptive_avg_pool2d` is two matrix products. ONNX has no such operator,
      and an exporter unrolls it for one size.
    - Pooling that only skips cells, as an FPN makes its coarsest level, is a selection of rows and
      columns. ``torch.export`` otherwise asks whether their number is even.
    - Other maxima of windows are those of a map that the windows fill, cut off or padded.
      ``torch.export`` otherwise asks whether there are any.
    - Maps of convolutions are contiguous. ``torch.export`` otherwise asks for the memory format of a map,
      which depends on whether it has more than one cell.
    - BatchNorm of as many boxes as there happen to be is a product and a sum. ``torch.export`` otherwise
      asks whether there are any.
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
        if func is F.max_pool2d and _skips_cells(*args[1:], **kwargs):
            return _every_nth(args[0], kwargs['stride'])
        if func is F.max_pool2d:
            return _max_pooled(*args, **kwargs)
        if func is torch.conv2d:
            return func(contiguous(args[0]), *args[1:], **kwargs)
        if func is F.batch_norm and free_unbacked_symbols(args[0]):
            return _batch_norm(*args, **kwargs)
        if func is Tensor.contiguous and len(args) == 1 and not kwargs:
            return contiguous(args[0])
        return func(*args, **kwargs)


def contiguous(x: Tensor) -> Tensor:
    """A copy in memory as its shape says, made without a question about the sizes of ``x``."""
    return x.clone(memory_format=torch.contiguous_format)


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm` by running statistics."""
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)


def _skips_cells(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    return_indices: bool,
    **_: object,
) -> bool:
    """Whether a pooling has windows of one cell, and so takes some cells and leaves the others.

    PyTorch gives a function mode all arguments but the first two by name.
    """
    one = kernel_size in (1, (1, 1), [1, 1]) and padding in (0, (0, 0), [0, 0])
    return one and bool(stride) and not return_indices


def _every_nth(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """``x[:, :, ::s, ::t]`` in memory of its own: strides of a slice raise questions about sizes."""
    for dim, step in zip((-2, -1), (stride, stride) if isinstance(stride, int) else stride):
        x = x.index_select(dim, torch.arange(0, x.shape[dim], step, device=x.device))
    return x


# One number for height and width, or one for each.
Sides = int | list[int] | tuple[int, ...]


def _max_pooled(
    x: Tensor,
    kernel_size: Sides,
    *,
    stride: Sides | None,
    padding: Sides,
    dilation: Sides,
    ceil_mode: bool,
    return_indices: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`torch.nn.functional.max_pool2d`, where needed of a map that its windows fill.

    Either the end that no window reaches is left out, or the last window is filled up.
    """
    kernels, steps, pads, spacings = map(
        _pair, (kernel_size, stride or kernel_size, padding, dilation)
    )
    # Sizes of the padded map, and what is left behind the last window.
    sizes = [size + 2 * pad for size, pad in zip(x.shape[-2:], pads)]
    reaches = [spacing * (kernel - 1) + 1 for kernel, spacing in zip(kernels, spacings)]
    rests = [(size - reach) % step for size, reach, step in zip(sizes, reaches, steps)]
    if return_indices or all(_is_zero(rest) for rest in rests):
        pass
    elif not ceil_mode:
        (above, left), (height, width) = pads, sizes
        x = F.pad(x, (left, left, above, above), value=-inf)
        x = x.narrow(-2, 0, height - rests[0]).narrow(-1, 0, width - rests[1])
        x = contiguous(x)
        padding = 0
    elif not any(pads) and all(reach >= step for reach, step in zip(reaches, steps)):
        # Otherwise a window might begin where the map has ended, and such a one is left out.
        below, right = ((step - rest) % step for step, rest in zip(steps, rests))
        x = F.pad(x, (0, right, 0, below), value=-inf)
        ceil_mode = False
    words = (x, kernel_size, stride, padding, dilation, ceil_mode)
    if return_indices:
        return F.max_pool2d(*words, return_indices=True)
    return F.max_pool2d(*words)


def _is_zero(size: int | torch.SymInt) -> bool:
    """Whether a size is 0 whatever the picture is."""
    return statically_known_true(size == 0)


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


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
