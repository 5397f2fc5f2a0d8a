"""Deformable convolutions through mmcv's modules: definition, derivatives, one backward call."""

from functools import partial
from unittest import mock

import pytest
import torch
from mmcv.ops import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2d, deform_conv2d
from mmcv.ops import modulated_deform_conv2d as modulated

from downstream.operators import deform_conv as module
from tests.downstream.operators.by_hand import bilinear, normal


def by_hand(x, offset, weight, mask, stride, padding, dilation, groups, deform_groups):
    """The sum over the kernel, pixel by pixel; pairs of numbers are (y, x)."""
    count, channels = x.shape[:2]
    out_channels, per_group, high, wide = weight.shape
    height, width = offset.shape[2:]
    out = torch.zeros(count, out_channels, height, width, dtype=torch.float64)
    for n in range(count):
        for c in range(channels):
            group, deform = c // per_group, c // (channels // deform_groups)
            own = range(group * out_channels // groups, (group + 1) * out_channels // groups)
            for row in range(height):
                for column in range(width):
                    for k in range(high * wide):
                        at = 2 * (deform * high * wide + k)
                        y = row * stride[0] - padding[0] + k // wide * dilation[0]
                        x_ = column * stride[1] - padding[1] + k % wide * dilation[1]
                        y += offset[n, at, row, column].item()
                        x_ += offset[n, at + 1, row, column].item()
                        value = bilinear(x[n, c], y, x_)
                        if mask is not None:
                            value *= mask[n, deform * high * wide + k, row, column].item()
                        for o in own:
                            kernel = weight[o, c % per_group, k // wide, k % wide].item()
                            out[n, o, row, column] += value * kernel
    return out


# Sizes differ along the axes, so that no two of them can be exchanged.
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (1, 0), (1, 2), 2, 2),
    ((1, 2), (0, 2), (2, 1), 1, 4),
]


def sources(geometry, dtype=torch.float64):
    stride, padding, dilation, groups, deform_groups = geometry
    x = normal(2, 4, 6, 7, dtype=dtype)
    weight = normal(4, 4 // groups, 3, 2, seed=1, dtype=dtype)
    sizes = zip((6, 7), padding, dilation, (3, 2), stride)
    size = [(s + 2 * p - d * (k - 1) - 1) // step + 1 for s, p, d, k, step in sizes]
    offset = normal(2, 2 * deform_groups * 6, *size, seed=2, dtype=dtype)
    mask = normal(2, deform_groups * 6, *size, seed=3, dtype=dtype)
    return x, offset, weight, mask


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_equal_the_definition(geometry):
    x, offset, weight, mask = sources(geometry)
    expected = by_hand(x, offset, weight, None, *geometry)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, *geometry), expected)
    bias = normal(4, seed=4)
    expected = by_hand(x, offset, weight, mask, *geometry)
    torch.testing.assert_close(modulated(x, offset, mask, weight, None, *geometry), expected)
    with_bias = modulated(x, offset, mask, weight, bias, *geometry)
    torch.testing.assert_close(with_bias, expected + bias[:, None, None])


def test_gradients_are_the_derivatives():
    geometry = GEOMETRIES[1]
    x, offset, weight, mask = (
        tensor.detach()[:1].requires_grad_() if tensor.shape[0] == 2 else tensor
        for tensor in sources(geometry)
    )
    check = partial(torch.autograd.gradcheck, fast_mode=True)
    assert check(lambda *parts: deform_conv2d(*parts, *geometry), (x, offset, weight))
    assert check(
        lambda *parts: modulated(*parts, *geometry), (x, offset, mask, weight, normal(4, seed=4))
    )
    assert check(
        lambda *parts: modulated(*parts, None, *geometry),
        (x, offset, mask, weight),
    )


@pytest.mark.parametrize('stride', [1, 2])
def test_offsets_of_a_larger_map_are_read_as_mmcv_reads_memory(stride):
    """DyHead convolves a coarser map with the offsets of a finer one."""
    x, weight = normal(2, 3, 5, 6), normal(4, 3, 3, 3, seed=1)
    offset, mask = normal(2, 18, 9, 12, seed=2), normal(2, 9, 9, 12, seed=3)
    size = (5, 6) if stride == 1 else (3, 3)
    geometry = ((stride, stride), (1, 1), (1, 1), 1, 1)
    read = []
    for source, channels in ((offset, 18), (mask, 9)):
        fitting = torch.empty(2, channels, *size, dtype=source.dtype)
        for image in range(2):
            memory = source[image].detach().reshape(-1).tolist()
            for channel in range(channels):
                for row in range(size[0]):
                    for column in range(size[1]):
                        place = (channel * size[0] + row) * size[1] + column
                        fitting[image, channel, row, column] = memory[place]
        read.append(fitting)
    expected = by_hand(x, read[0], weight, read[1], *geometry)
    out = modulated(x, offset, mask, weight, None, *geometry)
    torch.testing.assert_close(out, expected)

    sources = (x[:1].detach().requires_grad_(), offset[:1].detach().requires_grad_())
    sources += (mask[:1].detach().requires_grad_(),)
    check = partial(torch.autograd.gradcheck, fast_mode=True)
    assert check(lambda *parts: modulated(*parts, weight, None, *geometry), sources)
    with pytest.raises(RuntimeError, match='offset'):
        modulated(x, offset[..., :2, :2], mask, weight, None, *geometry)


def counting():
    return mock.patch.object(module, '_backward', mock.Mock(wraps=module._backward))


def test_one_backward_call_computes_all_gradients():
    geometry = GEOMETRIES[0]
    x, offset, weight, _ = sources(geometry)
    with counting() as backward:
        deform_conv2d(x, offset, weight, *geometry).sum().backward()
    assert backward.call_count == 1
    assert len(module._computed) == 0


def test_the_gradient_of_another_backward_pass_is_not_taken():
    """Two layers get the same gradient, and a graph is walked twice, with parts of its gradients."""
    geometry = GEOMETRIES[0]
    x, offset, weight, _ = sources(geometry)
    other = normal(*weight.shape, seed=7)
    grad = normal(2, 4, *offset.shape[2:], seed=8).detach()
    out = deform_conv2d(x, offset, weight, *geometry)
    expected = torch.autograd.grad(out, weight, grad, retain_graph=True)[0]
    torch.autograd.grad(out, x, torch.ones_like(grad), retain_graph=True)
    assert torch.equal(torch.autograd.grad(out, weight, grad, retain_graph=True)[0], expected)
    torch.autograd.grad(out, x, grad, retain_graph=True)
    doubled = torch.autograd.grad(out, weight, grad.mul_(2), retain_graph=True)[0]
    torch.testing.assert_close(doubled, 2 * expected)
    grad /= 2
    both = out + deform_conv2d(x[..., :-1, :], offset[..., :-1, :], other, *geometry).mean()
    assert torch.equal(torch.autograd.grad(both, (weight, other), grad)[0], expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_reduced_precision_computes_in_float32(dtype):
    geometry = GEOMETRIES[1]
    x, offset, weight, mask = sources(geometry, dtype)
    out = deform_conv2d(x, offset, weight, *geometry)
    exact = [tensor.detach().double() for tensor in (x, offset, weight, mask)]
    torch.testing.assert_close(out, deform_conv2d(*exact[:3], *geometry).to(dtype))
    second = modulated(x, offset, mask, weight, None, *geometry)
    order = (exact[0], exact[1], exact[3], exact[2])
    torch.testing.assert_close(second, modulated(*order, None, *geometry).to(dtype))
    (out.float().sum() + second.float().sum()).backward()
    for tensor in (x, offset, weight, mask):
        assert tensor.grad.dtype == dtype
        assert tensor.grad.isfinite().all()


def test_modules_run():
    """Also with a map smaller than the kernel, and under autocast."""
    layer = DeformConv2d(2, 3, 3, padding=1)
    assert layer(torch.randn(2, 2, 1, 2), torch.zeros(2, 18, 1, 2)).shape == (2, 3, 1, 2)
    pack = DeformConv2dPack(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 5, 6)
    plain = torch.nn.functional.conv2d(x, pack.weight, padding=1)
    torch.testing.assert_close(pack(x), plain)  # offsets start at zero
    with torch.autocast('cpu', torch.bfloat16):
        out = pack(x)
    torch.testing.assert_close(out.float(), plain, rtol=2e-2, atol=2e-2)
    out.float().sum().backward()
    assert pack.weight.grad.isfinite().all()
    assert ModulatedDeformConv2d(2, 3, 1)(
        x, torch.zeros(1, 2, 5, 6), torch.ones(1, 1, 5, 6)
    ).shape == (1, 3, 5, 6)
