"""GELU, and the backward passes of GELU and LayerNorm, with the sums needed beside them, on a CPU in C.

Without compiled C code (:mod:`backbones.kernels.build`), and in float64, PyTorch's operators do the
same in more passes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..build import call, load_library

_SOURCE = Path(__file__).with_name('pointwise.c')
# Kinds of arguments, see build.py.
_FUNCTIONS = {
    'gelu': 'ppppnnt',
    'gelu_backward': 'pppppnnt',
    'layer_norm_backward': 'ppppppppnnt',
}


def _library_for(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """The compiled library, if there is one and it can read these tensors."""
    if all(t is None or (t.dtype == torch.float32 and t.is_contiguous()) for t in tensors):
        return compiled()
    return None


def gelu(x: Tensor, bias: Tensor | None, out: Tensor, squares: Tensor | None = None) -> Tensor:
    """GELU of ``x + bias``, and the sums of squares that GRN's norms are made of.

    Args:
        x: ``(rows, columns)``.
        bias: ``(columns,)``, or None.
        out: The result is written here; may be ``x``.
        squares: ``(columns,)``; each column's sum of squares of the result is added to it.

    Returns:
        ``out``.
    """
    library = _library_for(x, bias, out, squares)
    if library is not None:
        call(library.gelu, x, bias, out, squares, *x.shape)
        return out
    torch.ops.aten.gelu.out(x if bias is None else torch.add(x, bias, out=out), out=out)
    if squares is not None:
        squares.addmv_((out * out).t(), x.new_ones(len(x)))
    return out


def gelu_backward_(
    x: Tensor,
    bias: Tensor | None,
    grad: Tensor,
    sums: Tensor,
    coefficient: Tensor | None = None,
) -> Tensor:
    """Backward pass of GELU, which also returns the GELU.

    Args:
        x: ``(rows, columns)``; undefined afterwards.
        bias: ``(columns,)``, or None; the GELU was of ``x + bias``.
        grad: Gradient of the GELU, of the same shape; becomes the gradient of ``x``.
        sums: ``(columns,)``; each column's sum of the gradient of ``x`` is added to it.
        coefficient: ``(columns,)``; the GELU times this is added to its gradient first (GRN's part).

    Returns:
        The GELU of ``x + bias``.
    """
    library = _library_for(x, bias, grad, sums, coefficient)
    if library is not None:
        call(library.gelu_backward, x, bias, grad, coefficient, sums, *x.shape)
        return x
    if bias is not None:
        x = x.add_(bias)
    value = torch.ops.aten.gelu(x)
    if coefficient is not None:
        grad.addcmul_(value, coefficient)
    torch.ops.aten.gelu_backward.grad_input(grad, x, grad_input=grad)
    sums.addmv_(grad.t(), grad.new_ones(len(grad)))
    return value


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    moments: Sequence[Tensor],
    weight: Tensor,
    out: Tensor,
    sums: Sequence[Tensor],
) -> None:
    """Backward pass of LayerNorm over rows.

    Args:
        grad: Gradient of the norm's output, ``(rows, columns)``.
        x: Its input.
        moments: Mean and inverse standard deviation of each row.
        weight: Its weight, ``(columns,)``.
        out: The gradient of ``x`` is written here.
        sums: The gradients of weight and bias are added to these.
    """
    mean, rstd = moments
    library = _library_for(grad, x, mean, rstd, weight, out, *sums)
    if library is not None:
        call(library.layer_norm_backward, grad, x, mean, rstd, weight, out, *sums, *x.shape)
        return
    grad_x, *grads = torch.ops.aten.native_layer_norm_backward(
        grad, x, weight.shape, mean, rstd, weight, sums[1], [True, True, True]
    )
    out.copy_(grad_x)
    for total, part in zip(sums, grads):
        total += part


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``pointwise.c``; None where it cannot be compiled."""
    return load_library(_SOURCE, _FUNCTIONS)
