"""Multi-scale deformable attention is its definition in C and PyTorch, and keeps only its arguments."""

import functools
import math

import pytest
import torch
from torch import nn

from backbones.kernels.detection import deform_attention as module
from backbones.kernels.detection.deform_attention import deform_attention
from downstream.contract.saved_memory import saved_activation_bytes

C_MODULE = module
SHAPES = ((5, 7), (3, 4), (1, 2))


def by_hand(value, shapes, locations, weights) -> torch.Tensor:
    """The definition, sample by sample, in Python's floats."""
    batch, queries, heads, _, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for q in range(queries):
            for h in range(heads):
                first = 0
                for level, (height, width) in enumerate(shapes):
                    for p in range(points):
                        x, y = locations[b, q, h, level, p].tolist()
                        x, y = x * width - 0.5, y * height - 0.5
                        for row in (math.floor(y), math.floor(y) + 1):
                            for column in (math.floor(x), math.floor(x) + 1):
                                if 0 <= row < height and 0 <= column < width:
                                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                                    share *= weights[b, q, h, level, p].item()
                                    pixel = value[b, first + row * width + column, h]
                                    out[b, q, h] += share * pixel.double()
                    first += height * width
    return out.flatten(2)


def inputs(dim=8, batch=2, queries=6, heads=3, points=2, dtype=torch.float32, shapes=SHAPES):
    """Locations reach beyond the maps."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in shapes)
    levels = len(shapes)
    value = torch.randn(batch, pixels, heads, dim, generator=generator, dtype=torch.float64)
    locations = (
        torch.rand(batch, queries, heads, levels, points, 2, generator=generator) * 1.6 - 0.3
    )
    weights = torch.rand(batch, queries, heads, levels, points, generator=generator)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights))


def grads_of(out, sources):
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return torch.autograd.grad(out, sources, grad)


@pytest.mark.parametrize('dim', [1, 8, 24, 32, 35, 70])
def test_equals_the_definition(way, dim):
    value, locations, weights = inputs(dim)
    out = deform_attention(value, SHAPES, locations, weights)
    expected = by_hand(value, SHAPES, locations, weights)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    exact = [tensor.detach().double().requires_grad_() for tensor in (value, locations, weights)]
    reference = deform_attention(exact[0], SHAPES, *exact[1:])
    for own, other in zip(grads_of(out, (value, locations, weights)), grads_of(reference, exact)):
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_derivatives():
    value, locations, weights = inputs(2, 1, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *sources: deform_attention(sources[0], SHAPES, *sources[1:]),
        (value, locations, weights),
    )
    out = deform_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(out, by_hand(value, SHAPES, locations, weights))


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_reduced_precision_reads_exact_locations_and_strided_values(way, dtype, batch):
    """PyTorch's own sampling gives NaN or 1e38 for such values on a CPU, for one image."""
    shapes = ((25, 42),)
    value, locations, weights = inputs(8, batch, 20, shapes=shapes)
    strided = value.detach().to(dtype).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    strided.requires_grad_()
    out = deform_attention(strided, shapes, locations, weights)
    assert out.dtype == dtype
    exact = deform_attention(strided.detach().double(), shapes, locations, weights)
    torch.testing.assert_close(out, exact.to(dtype))
    grads = grads_of(out, (strided, locations, weights))
    assert [grad.dtype for grad in grads] == [dtype, torch.float32, torch.float32]
    assert all(grad.isfinite().all() for grad in grads)


def test_nothing_but_the_arguments_is_kept(way):
    sources = inputs(32, 1, 50, 8, 4)
    run = functools.partial(deform_attention, sources[0], SHAPES, *sources[1:])
    kept = saved_activation_bytes(nn.Identity(), run)
    assert kept <= sum(tensor.numel() * tensor.element_size() for tensor in sources)


def test_what_is_not_finite_does_not_vanish(way):
    value, locations, weights = inputs(4)
    with torch.no_grad():
        locations[0, 0, 1, 2, 0, 0] = float('nan')
        locations[0, 1, 1, 2, 0, 1] = float('inf')
    out = deform_attention(value, SHAPES, locations, weights)
    lost = out.view(2, 6, 3, 4)[0, :2, 1]
    assert lost.isnan().all()
    assert out.isnan().sum() == lost.numel()


def test_no_queries(way):
    value, locations, weights = inputs(4, queries=0)
    out = deform_attention(value, SHAPES, locations, weights)
    assert out.shape == (2, 0, 12)
    assert grads_of(out, (value,))[0].abs().sum() == 0


def test_maps_of_another_size_are_refused(way):
    value, locations, weights = inputs(4)
    with pytest.raises((ValueError, RuntimeError), match=r'pixels|split'):
        deform_attention(value, ((5, 7), (3, 4), (1, 3)), locations, weights)


def test_what_intercepts_operators_sees_them():
    value, locations, weights = inputs(4)
    expected = deform_attention(value, SHAPES, locations, weights)
    traced = torch.jit.trace(
        lambda *sources: deform_attention(sources[0], SHAPES, *sources[1:]),
        (value, locations, weights),
        check_trace=False,
    )
    assert 'aten::grid_sampler' in str(traced.graph)
    torch.testing.assert_close(traced(value, locations, weights), expected)
