"""GELU and LayerNorm's backward pass on a CPU, with what is summed up on the way, in C.

Where there is no compiler (:mod:`.build`), and in float64, PyTorch's operators do the same in more
passes.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from .build import call, library

_SOURCE = Path(__file__).with_name('pointwise.c')
# Kinds of the arguments, see c_code.py.
_ARGUMENTS = {
    'gelu': 'ppppnnt',
    'gelu_back': 'pppppnnt',
    'norm_back': 'ppppppppnnt',
}


def _is_for_c(*tensors: Tensor | None) -> bool:
    return compiled() is not None and all(
        t is None or (t.dtype == torch.float32 and t.is_contiguous()) for t in tensors
    )


def gelu(x: Tensor, bias: Tensor | None, out: Tensor, squares: Tensor | None = None) -> Tensor:
    """GELU of ``x + bias``, and what GRN wants to know of it.

    Args:
        x: ``(rows, columns)``.
        bias: ``(columns,)``, or none.
        out: Gets the GELU; may be ``x``.
        squares: ``(columns,)``, to which the sums of the GELU's squares are added.

    Returns:
        ``out``.
    """
    if _is_for_c(x, bias, out, squares):
        call(compiled().gelu, x, bias, out, squares, *x.shape)
        return out
    torch.ops.aten.gelu.out(x if bias is None else torch.add(x, bias, out=out), out=out)
    if squares is not None:
        squares.addmv_((out * out).t(), x.new_ones(len(x)))
    return out


def gelu_back_(
    x: Tensor, bias: Tensor | None, grad: Tensor, sums: Tensor, pull: Tensor | None = None
) -> Tensor:
    """Backward pass of GELU, which also gives its value once more.

    Args:
        x: ``(rows, columns)``; its content does not count afterwards.
        bias: ``(columns,)``, or none; GELU was of ``x + bias``.
        grad: Gradient of the GELU, of the same form; becomes that of ``x``.
        sums: ``(columns,)``, to which the sums of the gradient of ``x`` are added.
        pull: ``(columns,)``; the GELU times this is added to its gradient first.

    Returns:
        The GELU of ``x + bias``.
    """
    if _is_for_c(x, bias, grad, sums, pull):
        call(compiled().gelu_back, x, bias, grad, pull, sums, *x.shape)
        return x
    if bias is not None:
        x = x.add_(bias)
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
        call(compiled().norm_back, grad, x, mean, rstd, weight, out, *sums, *x.shape)
        return
    back = torch.ops.aten.native_layer_norm_backward(
        grad, x, weight.shape, mean, rstd, weight, sums[1], [True, True, True]
    )
    out.copy_(back[0])
    for total, part in zip(sums, back[1:]):
        total += part


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``cpu_kernels.c``; None where it cannot be made."""
    return library(_SOURCE, _ARGUMENTS)
