"""RoIAlign in C gives what torchvision's does, forwards and backwards."""

import pytest
import torch

from backbones.kernels.detection import roi_align
from backbones.kernels.detection.roi_align import RoIAlign

C_MODULE = roi_align


def boxes_of(images: int, size: int, count: int) -> torch.Tensor:
    """Of all sizes and places, some outside, empty or turned round."""
    torch.manual_seed(0)
    corners = torch.rand(count, 2) * size * 1.4 - 0.2 * size
    sides = torch.rand(count, 2) ** 3 * size
    sides[::7] *= -0.3
    sides[::11] = 0
    image = torch.randint(images, (count, 1)).float()
    return torch.cat([image, corners, corners + sides], 1)


def by_torchvision(align: RoIAlign, maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    options = (align.scale, *align.size, align.sampling, align.aligned)
    return torch.ops.torchvision.roi_align(maps, boxes.to(maps.dtype), *options)


@pytest.mark.parametrize('channels', [3, 16, 70])
def test_in_registers_of_any_width(channels, way):
    require_like_torchvision(channels, 0, True, (2, 3))


@pytest.mark.parametrize('channels', [1, 3, 16, 64, 70, 256])
@pytest.mark.parametrize('sampling', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('size', [(7, 7), (1, 3), (14, 14)])
def test_like_torchvision(channels, sampling, aligned, size):
    require_like_torchvision(channels, sampling, aligned, size)


def require_like_torchvision(
    channels: int, sampling: int, aligned: bool, size: tuple[int, int]
) -> None:
    align = RoIAlign(size, 0.25, sampling, aligned)
    boxes = boxes_of(2, 160, 60)
    for shape in ((30, 41), (1, 5), (1, 1)):
        maps = torch.randn(2, channels, *shape)
        exact = maps.double().requires_grad_()
        expected = by_torchvision(align, exact, boxes)
        found = align(maps, boxes)
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        grad = torch.randn(expected.shape)
        (towards,) = torch.autograd.grad(expected, exact, grad.double())
        back = align.back(grad, boxes, maps.shape)
        torch.testing.assert_close(back.double(), towards, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('sampling', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
def test_the_deterministic_gradient_is_torchvisions(sampling, aligned):
    align = RoIAlign((2, 3), 0.25, sampling, aligned)
    boxes = boxes_of(2, 160, 70).double()
    boxes[:, 3:] = boxes[:, 3:].maximum(boxes[:, 1:3])  # proposals are not turned round
    for shape in ((30, 41), (1, 5)):
        maps = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
        grad = torch.randn(70, 3, 2, 3, dtype=torch.float64)
        (expected,) = torch.autograd.grad(by_torchvision(align, maps, boxes), maps, grad)
        found = align._back_deterministically(grad, boxes, maps.shape)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('sampling', [0, 2])
def test_the_deterministic_gradient_of_images_without_boxes(sampling):
    """As on the levels of a pyramid that no proposal is assigned to."""
    align = RoIAlign((2, 3), 0.25, sampling, True)
    for boxes in (torch.zeros(0, 5), torch.tensor([[1.0, 2, 3, 40, 50]])):
        grad = torch.ones(len(boxes), 3, 2, 3)
        found = align._back_deterministically(grad, boxes, (2, 3, 20, 20))
        assert found[0].abs().sum() == 0
        assert (found[1].abs().sum() > 0) == bool(len(boxes))


def test_what_is_no_box_samples_nothing():
    maps = torch.randn(2, 20, 8, 8)
    good = torch.tensor([1.0, 4, 4, 20, 20])
    nan, far = float('nan'), float('inf')
    bad = [[0, nan, 1, 2, 3], [2, 1, 1, 5, 5], [-1, 1, 1, 5, 5], [0, 900, 900, 950, 950]]
    align = RoIAlign((2, 2), 0.25, 2, True)
    found = align(maps, torch.stack([good, *map(torch.tensor, bad)]))
    assert found[0].abs().sum() > 0
    assert found[2:].abs().sum() == 0
    assert found.isfinite().all()
    assert align.back(found, torch.tensor([[0, far, far, far, far]] * 5), maps.shape).sum() == 0


def test_the_same_bits_every_time_on_any_threads():
    maps, boxes = torch.randn(2, 256, 50, 60), boxes_of(2, 240, 200)
    align = RoIAlign((7, 7), 0.25, 0, True)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out = align(maps, boxes)
            results.append((out, align.back(out, boxes, maps.shape)))
    finally:
        torch.set_num_threads(threads)
    for pair in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(pair, results[0]))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_where_c_is_not_for_it(dtype, monkeypatch):
    if dtype == torch.float32:
        monkeypatch.setattr(roi_align, 'compiled', lambda: None)
    align = RoIAlign((7, 7), 0.25, 0, True)
    maps, boxes = torch.randn(2, 8, 20, 20, dtype=dtype), boxes_of(2, 80, 9).to(dtype)
    assert torch.equal(align(maps, boxes), by_torchvision(align, maps, boxes))
    assert align(maps, boxes[:0]).shape == (0, 8, 7, 7)
    assert align.back(maps.new_zeros(9, 8, 7, 7), boxes, maps.shape).shape == maps.shape
