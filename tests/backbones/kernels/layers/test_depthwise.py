"""The depthwise convolution in C is PyTorch's: any size, with what is added and normed on the way."""

import pytest
import torch
from torch import Tensor, nn

from backbones.kernels.layers import depthwise
from tests.support.close import require_close

C_MODULE = depthwise
CHANNELS = [1, 8, 16, 40, 96]
SIZES = [(1, 1), (2, 5), (3, 9), (6, 4), (7, 7), (20, 33)]


def maps(count: int, *form: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    last = torch.channels_last
    return [torch.randn(form, dtype=dtype).contiguous(memory_format=last) for _ in range(count)]


@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('size', SIZES)
def test_the_convolution(channels, size, way):
    x, plus, out = maps(3, 2, channels, *size)
    weight, bias = torch.randn(channels, 1, 7, 7), torch.randn(channels)
    expected = nn.functional.conv2d(
        x.double(), weight.double(), bias.double(), padding=3, groups=channels
    )
    before = x.clone()
    found = depthwise.convolve(x, weight, bias, out)
    require_close(found, expected, 1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    found = depthwise.convolve(x, weight.flip(2, 3), None, plus=plus)
    expected = nn.functional.conv2d(
        x.double(), weight.double().flip(2, 3), padding=3, groups=channels
    )
    require_close(found, expected + plus, 1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize('channels', [8, 16, 40, 96, 136])
@pytest.mark.parametrize('size', SIZES)
def test_the_norm_after_it(channels, size, way):
    """Also of numbers whose mean is far from zero."""
    (x,) = maps(1, 2, channels, *size)
    weight, scale, shift = (torch.randn(channels, *form) for form in ((1, 7, 7), (), ()))
    for bias in (torch.randn(channels), torch.randn(channels) + 1000):
        found = depthwise.convolve(x, weight, bias, norm=(scale, shift, 1e-6))
        expected = nn.functional.conv2d(
            x.double(), weight.double(), bias.double(), padding=3, groups=channels
        )
        expected = nn.functional.layer_norm(
            expected.permute(0, 2, 3, 1), (channels,), scale.double(), shift.double(), 1e-6
        )
        require_close(found.permute(0, 2, 3, 1), expected, 1e-6 if bias.max() < 100 else 1e-4)


@pytest.mark.parametrize('threads', [1, 5])
def test_whatever_the_number_of_threads(threads):
    x, out = maps(2, 2, 40, 9, 13)
    weight, bias = torch.randn(40, 1, 7, 7), torch.randn(40)
    expected = depthwise.convolve(x, weight, bias)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(
            torch.equal(depthwise.convolve(x, weight, bias, out), expected) for _ in range(9)
        )
    finally:
        torch.set_num_threads(before)


def test_what_is_not_a_number_stays_where_it_reaches(way):
    x = torch.zeros(1, 16, 20, 20).contiguous(memory_format=torch.channels_last)
    x[0, 3, 10, 10] = float('nan')
    found = depthwise.convolve(x, torch.ones(16, 1, 7, 7), None)
    assert found.isnan().sum() == 49
    assert found[0, 3, 7:14, 7:14].isnan().all()


@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_gradient_of_the_weight(channels, size, dtype, way):
    x, grad = maps(2, 2, channels, *size, dtype=dtype)
    weight = torch.randn(channels, 1, 7, 7, dtype=dtype)
    found = depthwise.weight_gradient(x, grad, weight)
    exact = weight.double().requires_grad_()
    y = nn.functional.conv2d(x.double(), exact, padding=3, groups=channels)
    (expected,) = torch.autograd.grad(y, exact, grad.double())
    require_close(found, expected, 1e-5 if dtype == torch.float32 else 1e-13)
