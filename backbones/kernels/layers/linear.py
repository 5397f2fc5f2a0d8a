"""Linear layers on a CPU, without gradients, computed by MKL or oneDNN, whichever is faster.

PyTorch multiplies float32 matrices with MKL. Where there is AVX-512 (measured on an AMD EPYC), oneDNN's
linear layers are 10 to 30 % faster from 128 channels on, and apply GELU at no cost; PyTorch has them as
the operator that its compiler uses. With AVX2 both are equally fast.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.upstream import optional

from . import pointwise

_MIN_CHANNELS = 128
_linear_pointwise = optional('torch.ops.mkldnn._linear_pointwise')


@functools.cache
def has_onednn() -> bool:
    """Whether oneDNN's linear layers exist, are faster here, and give the right result when tried."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == 'AVX512'
        and _linear_pointwise is not None
        and _computes_gelu_of_linear()
    )


def _computes_gelu_of_linear() -> bool:
    """Whether the operator takes our arguments and returns what PyTorch's modules would."""
    x = torch.linspace(-2, 2, 6, dtype=torch.float32, device='cpu').view(2, 3)
    weight, bias = x.flip(0) + 1, x[:, 0]
    try:
        found = _onednn(x, weight, bias, gelu=True), _onednn(x, weight, None)
    except (RuntimeError, TypeError):  # another signature
        return False
    expected = F.gelu(F.linear(x, weight, bias)), F.linear(x, weight)
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected))


def allocates_output(dtype: torch.dtype, weight: Tensor) -> bool:
    """Whether :func:`linear` ignores ``out``: oneDNN allocates the memory of its results."""
    return dtype == torch.float32 and min(weight.shape) >= _MIN_CHANNELS and has_onednn()


def linear(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """``x @ weight.T``.

    Args:
        x: ``(rows, in)``.
        weight: ``(out, in)``, of any strides.
        out: Memory ``(rows, out)`` for the result, unless :func:`allocates_output`.

    Returns:
        The product ``(rows, out)``, in ``out`` or in new memory.
    """
    if allocates_output(x.dtype, weight):
        return _onednn(x, weight, None)
    return torch.mm(x, weight.t(), out=out)


def linear_with_pending_bias(
    x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """``x @ weight.T + bias``, or without the bias where the next operation adds it more cheaply.

    With MKL, adding the bias takes a pass over ``out`` before the product.

    Returns:
        As :func:`linear`, and the bias that is still to be added, or None.
    """
    if allocates_output(x.dtype, weight):
        return _onednn(x, weight, bias), None
    return torch.mm(x, weight.t(), out=out), bias


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """GELU of ``x @ weight.T + bias``; arguments and result as of :func:`linear`."""
    if allocates_output(x.dtype, weight):
        return _onednn(x, weight, bias, gelu=True)
    product = torch.mm(x, weight.t(), out=out)
    return pointwise.gelu(product, bias, product)


def add_linear(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, out: Tensor) -> None:
    """Write ``residual + x @ weight.T + bias`` to ``out``, which may be ``residual``."""
    if allocates_output(x.dtype, weight):
        torch.add(residual, _onednn(x, weight, bias), out=out)
    else:
        torch.add(residual, bias, out=out).addmm_(x, weight.t())


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    activation, approximation = ('gelu', 'none') if gelu else ('none', '')
    return _linear_pointwise(x, weight, bias, activation, [], approximation)
