"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, equation 3).

On a CPU it runs in C where there is a compiler, elsewhere level by level in PyTorch. Either way nothing
but the arguments is kept for the backward pass, as with the authors' CUDA kernel; sampling with PyTorch's
``grid_sample`` and autograd keeps every sample, seven times as much. Everything is computed at least in
float32: locations in float16 or bfloat16 are off by pixels.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..build import call, load_library
from ..eager import is_plain_eager

Shapes = Sequence[tuple[int, int]]


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``deform_attention.c``; None where it cannot be compiled."""
    kinds = 'n' * 7 + 't'
    functions = {'deform_attention': 'p' * 5 + kinds, 'deform_attention_backward': 'p' * 8 + kinds}
    return load_library(Path(__file__).with_name('deform_attention.c'), functions)


def deform_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples of maps of several sizes, zero outside of them.

    Args:
        value: ``(B, K, heads, D)``; ``K`` runs over the pixels of all maps, one map after the other.
        shapes: Height and width of each map, ``L`` of them.
        locations: ``(B, Q, heads, L, P, 2)``: x, y of the samples, from 0 to 1 along the sides of a map.
        weights: ``(B, Q, heads, L, P)``.

    Returns:
        ``(B, Q, heads * D)`` in the dtype of ``value``, differentiable once by all three tensors.
    """
    if not is_plain_eager(value):
        return _by_torch(value, shapes, locations, weights).to(value.dtype)
    return _DeformAttention.apply(value, locations, weights, tuple(shapes))


class _DeformAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        return forward(value, shapes, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        return *backward(value, ctx.shapes, locations, weights, grad), None


def forward(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The result of :func:`deform_attention`, without a graph."""
    library = _library_for(value, locations, weights)
    if library is None:
        with torch.no_grad():
            return _by_torch(value, shapes, locations, weights).to(value.dtype)
    exact = [_plain_floats(tensor) for tensor in (value, locations, weights)]
    out = exact[0].new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])
    call(library.deform_attention, *exact, out, *_sizes(value, shapes, locations))
    return out.to(value.dtype)


def backward(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``value``, ``locations`` and ``weights``, each of its dtype.

    Args:
        grad: That of the result, ``(B, Q, heads * D)``.
    """
    sources = (value, locations, weights)
    library = _library_for(*sources, grad)
    grads: tuple[Tensor, ...]
    if library is None:
        grads = _backward_by_torch(value, shapes, locations, weights, grad)
    else:
        exact = [_plain_floats(tensor) for tensor in (*sources, grad)]
        grads = torch.zeros_like(exact[0]), *(torch.empty_like(tensor) for tensor in exact[1:3])
        sizes = _sizes(value, shapes, locations)
        call(library.deform_attention_backward, *exact, *grads, *sizes)
    grad_value, grad_locations, grad_weights = (
        own.to(source.dtype) for own, source in zip(grads, sources)
    )
    return grad_value, grad_locations, grad_weights


def _library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The compiled library, if there is one and it can compute with these tensors."""
    if all(
        t.device.type == 'cpu' and t.dtype != torch.float64 and is_plain_eager(t) for t in tensors
    ):
        return compiled()
    return None


def _plain_floats(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _sizes(value: Tensor, shapes: Shapes, locations: Tensor) -> tuple[Tensor | int, ...]:
    """What the C functions want to know beside the tensors.

    Raises:
        ValueError: The maps have another number of pixels than ``value``.
    """
    pixels = sum(height * width for height, width in shapes)
    if pixels != value.shape[1]:
        raise ValueError(
            f'value has {value.shape[1]} pixels, maps of {list(shapes)} have {pixels}.'
        )
    queries, points = locations.shape[1], locations.shape[4]
    levels = torch.tensor(shapes, dtype=torch.long)
    return levels, *value.shape, len(shapes), queries, points


def _by_torch(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The result at least in float32; a level's samples are freed before the next one's are taken."""
    batch, _, heads, dim = value.shape
    out = value.new_zeros(
        batch,
        locations.shape[1],
        heads * dim,
        dtype=torch.promote_types(value.dtype, torch.float32),
    )
    values = value.split([height * width for height, width in shapes], 1)
    for level, (pixels, shape) in enumerate(zip(values, shapes)):
        out = out + _level(pixels, shape, locations[:, :, :, level], weights[:, :, :, level])
    return out


def _backward_by_torch(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """As :func:`backward`, computed again level by level."""
    grads = tuple(torch.zeros_like(tensor) for tensor in (value, locations, weights))
    start = 0
    for level, (height, width) in enumerate(shapes):
        own = slice(start, start + height * width)
        parts = (
            (slice(None), own),
            (..., level, slice(None), slice(None)),
            (..., level, slice(None)),
        )
        with torch.enable_grad():
            sources = [
                tensor.detach()[part].requires_grad_()
                for tensor, part in zip((value, locations, weights), parts)
            ]
            out = _level(sources[0], (height, width), sources[1], sources[2])
        for whole, part, found in zip(
            grads, parts, torch.autograd.grad(out, sources, grad.to(out.dtype))
        ):
            whole[part] = found
        start = own.stop
    return grads


def _level(pixels: Tensor, shape: tuple[int, int], locations: Tensor, weights: Tensor) -> Tensor:
    """A level's part ``(B, Q, heads * D)`` of the result, at least in float32.

    Args:
        pixels: ``(B, height * width, heads, D)``.
        shape: Height and width.
        locations: ``(B, Q, heads, P, 2)``.
        weights: ``(B, Q, heads, P)``.
    """
    dtype = torch.promote_types(pixels.dtype, torch.float32)
    batch, _, heads, dim = pixels.shape
    # Contiguous, because grid_sample is slow on strided maps.
    maps = pixels.to(dtype).permute(0, 2, 3, 1).contiguous().view(batch * heads, dim, *shape)
    grid = (2 * locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)
    with torch.autocast(pixels.device.type, enabled=False):
        samples = F.grid_sample(maps, grid, padding_mode='zeros', align_corners=False)
        shares = weights.to(dtype).transpose(1, 2).flatten(0, 1)[:, None]
        out = (samples * shares).sum(-1)
    return out.view(batch, heads * dim, -1).transpose(1, 2)
