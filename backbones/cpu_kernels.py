"""What a ConvNeXt block on a CPU computes beside its matrix products, in C where there is a compiler.

Where there is no compiler (:mod:`backbones.c_code`), and in float64, PyTorch's operators do the same in
more passes.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from .c_code import library

_SIZE = 7
_SOURCE = Path(__file__).with_name('cpu_kernels.c')
_GRADIENTS = {torch.float32: 'gradient_float32', torch.float64: 'gradient_float64'}
# Kinds of the arguments, see c_code.py.
_ARGUMENTS = {
    'gelu': 'pppnnt',
    'gelu_back': 'ppppnnt',
    'norm_back': 'ppppppppnnt',
    'gradient_float32': 'pppnnnnt',
    'gradient_float64': 'pppnnnnt',
}


def _call(name: str, *arguments: Tensor | int | None) -> None:
    pointers = (a if a is None or isinstance(a, int) else a.data_ptr() for a in arguments)
    getattr(compiled(), name)(*pointers, torch.get_num_threads())


def _is_for_c(*tensors: Tensor) -> bool:
    return compiled() is not None and all(
        t.dtype == torch.float32 and t.is_contiguous() for t in tensors
    )


def gelu(x: Tensor, out: Tensor, squares: Tensor) -> None:
    """GELU, and what GRN wants to know of it.

    Args:
        x: ``(rows, columns)``.
        out: Gets the GELU; may be ``x``.
        squares: ``(columns,)``, to which the sums of the GELU's squares are added.
    """
    if _is_for_c(x, out, squares):
        _call('gelu', x, out, squares, *x.shape)
    else:
        torch.ops.aten.gelu.out(x, out=out)
        squares.addmv_((out * out).t(), x.new_ones(len(x)))


def gelu_back_(x: Tensor, grad: Tensor, sums: Tensor, pull: Tensor | None = None) -> Tensor:
    """Backward pass of GELU, which also gives its value once more.

    Args:
        x: What GELU was of, ``(rows, columns)``; its content does not count afterwards.
        grad: Gradient of the GELU, of the same form; becomes that of ``x``.
        sums: ``(columns,)``, to which the sums of the gradient of ``x`` are added.
        pull: ``(columns,)``; the GELU times this is added to its gradient first.

    Returns:
        The GELU of ``x``.
    """
    if _is_for_c(x, grad, sums):
        _call('gelu_back', x, grad, pull, sums, *x.shape)
        return x
    value = torch.ops.aten.gelu(x)
    if pull is not None:
        grad.addcmul_(value, pull)
    torch.ops.aten.gelu_backward.grad_input(grad, x, grad_input=grad)
    sums.addmv_(grad.t(), grad.new_ones(len(grad)))
    return value


def norm_back(
    grad: Tensor,
    x: Tensor,
    moments: tuple[Tensor, Tensor],
    weight: Tensor,
    out: Tensor,
    sums: list[Tensor],
) -> None:
    """Backward pass of LayerNorm over rows.

    Args:
        grad: Gradient of the norm, ``(rows, columns)``.
        x: Its input.
        moments: Mean and inverse standard deviation of each row.
        weight: Its weight.
        out: Gets the gradient of ``x``.
        sums: To which the gradients of weight and bias are added.
    """
    mean, rstd = moments
    if _is_for_c(grad, x, mean, rstd, weight, out, *sums):
        _call('norm_back', grad, x, mean, rstd, weight, out, *sums, *x.shape)
        return
    back = torch.ops.aten.native_layer_norm_backward(
        grad, x, weight.shape, mean, rstd, weight, sums[1], [True, True, True]
    )
    out.copy_(back[0])
    for total, part in zip(sums, back[1:]):
        total += part


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient ``(C, 1, 7, 7)`` of the weight of ``conv2d(x, weight, padding=3, groups=C)``.

    oneDNN's takes most of a training step.

    Args:
        x: Input ``(N, C, H, W)``, channels last, float32 or float64.
        grad: Gradient of the output, of the same form.
        weight: The convolution's.
    """
    if compiled() is None:
        mask = [False, True, False]
        one, half = [1, 1], [_SIZE // 2, _SIZE // 2]
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, half, one, False, [0, 0], len(weight), mask
        )[1]
    count, channels, height, width = x.shape
    out = x.new_zeros(_SIZE, _SIZE, channels)
    _call(_GRADIENTS[x.dtype], x, grad, out, count, height, width, channels)
    return out.permute(2, 0, 1).unsqueeze(1)


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``cpu_kernels.c``; None where it cannot be made."""
    return library(_SOURCE, _ARGUMENTS)
