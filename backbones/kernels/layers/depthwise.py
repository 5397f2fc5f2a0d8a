"""Depthwise 7x7 convolutions of channels_last feature maps on a CPU, in C.

oneDNN's weight gradient takes most of a training step, and after its convolution, whose output it
allocates, a norm needs another pass over the map. Without compiled C code
(:mod:`backbones.kernels.build`), PyTorch's operators do the same.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..build import call, load_library

_SIZE = 7
_SOURCE = Path(__file__).with_name('depthwise.c')
# Nobody trains in float64; tests compare in it, and PyTorch takes 20 to 50 times as long.
_WEIGHT_GRADIENTS = {
    torch.float32: 'weight_gradient_float32',
    torch.float64: 'weight_gradient_float64',
}
# Kinds of arguments, see build.py.
_FUNCTIONS = {
    'depthwise': 'pppppppfnnnnt',
    'weight_gradient_float32': 'pppnnnnt',
    'weight_gradient_float64': 'pppnnnnt',
}


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None = None,
    norm: tuple[Tensor, Tensor, float] | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """``conv2d(x, weight, bias, padding=3, groups=C)``, without a gradient.

    Args:
        x: ``(N, C, H, W)`` in channels_last memory format.
        weight: ``(C, 1, 7, 7)``.
        bias: ``(C,)``, or None.
        out: Memory, of the shape and format of ``x``, that may be used for the result.
        norm: Weight, bias and epsilon of a LayerNorm over the channels that follows.
        plus: A map of the shape and format of ``x`` that is added to the convolution's.

    Returns:
        The result in channels_last memory format, in ``out`` or in new memory.
    """
    library = compiled()
    if library is None or x.dtype != torch.float32:
        y = F.conv2d(x, weight, bias, padding=_SIZE // 2, groups=len(weight))
        if plus is not None:
            y = y.add_(plus)
        if norm is not None:
            y = F.layer_norm(y.permute(0, 2, 3, 1), (len(weight),), *norm).permute(0, 3, 1, 2)
        return y.contiguous(memory_format=torch.channels_last)
    if out is None:
        out = torch.empty_like(x)
    count, channels, height, width = x.shape
    by_position = weight.reshape(channels, -1).t().contiguous()
    vectors = [each.contiguous() for each in norm[:2]] if norm else [None, None]
    bias = None if bias is None else bias.contiguous()
    size = (count, height, width, channels)
    eps = norm[2] if norm else 0.0
    call(library.depthwise, x, by_position, bias, plus, out, *vectors, eps, *size)
    return out


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient ``(C, 1, 7, 7)`` of the weight of ``conv2d(x, weight, padding=3, groups=C)``.

    Args:
        x: Input ``(N, C, H, W)`` in channels_last memory format, float32 or float64.
        grad: Gradient of the output, of the same shape and format.
        weight: The convolution's weight.
    """
    library = compiled()
    if library is None:
        mask = [False, True, False]
        one, half = [1, 1], [_SIZE // 2, _SIZE // 2]
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, half, one, False, [0, 0], len(weight), mask
        )[1]
    count, channels, height, width = x.shape
    out = x.new_zeros(_SIZE, _SIZE, channels)
    function = getattr(library, _WEIGHT_GRADIENTS[x.dtype])
    call(function, x, grad, out, count, height, width, channels)
    return out.permute(2, 0, 1).unsqueeze(1)


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``depthwise.c``; None where it cannot be compiled."""
    return load_library(_SOURCE, _FUNCTIONS)
