"""Linear layers of a block on a CPU, by the library that is the faster there.

PyTorch multiplies float32 matrices with MKL. Where there is AVX-512 (measured on an EPYC), oneDNN's
products in the form of a linear layer are 10 to 30 % faster from 128 channels on, with GELU at no cost;
PyTorch has them as the operator that its compiler uses. With AVX2 both are as fast.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

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


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """``x @ weight.T + bias`` for ``x`` of ``(rows, in)``, without a gradient.

    Args:
        x: Rows.
        weight: ``(out, in)``, of any strides.
        bias: ``(out,)``, or none.
        out: Memory of ``(rows, out)`` for the result, unless :func:`brings_memory`.
        gelu: Whether the result is the product's GELU.

    Returns:
        The product, in ``out`` or in memory of its own.
    """
    if brings_memory(x.dtype, weight):
        after, algorithm = ('gelu', 'none') if gelu else ('none', '')
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)
    if bias is None:
        product = torch.mm(x, weight.t(), out=out)
    else:
        product = torch.addmm(bias, x, weight.t(), out=out)
    return torch.ops.aten.gelu_(product) if gelu else product
