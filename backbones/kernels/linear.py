"""Linear layers of a block on a CPU, by the library that is the faster there.

PyTorch multiplies float32 matrices with MKL. Where there is AVX-512 (measured on an EPYC), oneDNN's
products in the form of a linear layer are 10 to 30 % faster from 128 channels on, with GELU at no cost;
PyTorch has them as the operator that its compiler uses. With AVX2 both are as fast.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import pointwise as cpu_kernels

_MIN_CHANNELS = 128


@functools.cache
def has_onednn() -> bool:
    """Whether oneDNN's products are there, and faster."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == 'AVX512'
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    )


def brings_memory(dtype: torch.dtype, weight: Tensor) -> bool:
    """Whether :func:`linear` has no use for ``out``: oneDNN's results come in memory of their own."""
    return dtype == torch.float32 and min(weight.shape) >= _MIN_CHANNELS and has_onednn()


def linear(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """``x @ weight.T`` for ``x`` of ``(rows, in)``, without a gradient.

    Args:
        x: Rows.
        weight: ``(out, in)``, of any strides.
        out: Memory of ``(rows, out)`` for the result, unless :func:`brings_memory`.

    Returns:
        The product, in ``out`` or in memory of its own.
    """
    if brings_memory(x.dtype, weight):
        return _onednn(x, weight, None)
    return torch.mm(x, weight.t(), out=out)


def hidden(
    x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """``x @ weight.T + bias``, where adding the bias may be left to what comes next.

    MKL would have it written to all of ``out`` beforehand.

    Returns:
        As :func:`linear`, and the bias that has yet to be added, if any.
    """
    if brings_memory(x.dtype, weight):
        return _onednn(x, weight, bias), None
    return torch.mm(x, weight.t(), out=out), bias


def activated(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """GELU of ``x @ weight.T + bias``; arguments and result as of :func:`linear`."""
    if brings_memory(x.dtype, weight):
        return _onednn(x, weight, bias, gelu=True)
    product = torch.mm(x, weight.t(), out=out)
    return cpu_kernels.gelu(product, bias, product)


def add_linear(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, into: Tensor) -> None:
    """Write ``residual + x @ weight.T + bias`` to ``into``, which may be ``residual``."""
    if brings_memory(x.dtype, weight):
        torch.add(residual, _onednn(x, weight, bias), out=into)
    else:
        torch.add(residual, bias, out=into).addmm_(x, weight.t())


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    after, algorithm = ('gelu', 'none') if gelu else ('none', '')
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)
