"""CARAFE, masked convolution, deformable RoI pooling and PSA masks: definition and derivatives."""

import math

import pytest
import torch
from mmcv.ops import (
    CARAFENaive,
    DeformRoIPool,
    DeformRoIPoolPack,
    MaskedConv2d,
    ModulatedDeformRoIPoolPack,
    PSAMask,
    carafe,
)

from downstream.operators import deform_roi_pool
from downstream.operators.ops import carafe_naive_backward
from tests.downstream.operators.by_hand import clamped_bilinear, normal

HALVES = [torch.float16, torch.bfloat16]


def carafe_by_hand(maps, masks, kernel, groups, scale):
    count, channels, height, width = maps.shape
    out = torch.zeros(count, channels, height * scale, width * scale, dtype=torch.float64)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        for k in range(kernel * kernel):
            row, column = (
                y // scale + k // kernel - kernel // 2,
                x // scale + k % kernel - kernel // 2,
            )
            if 0 <= row < height and 0 <= column < width:
                mask = masks[n, c // (channels // groups) * kernel * kernel + k, y, x]
                out[n, c, y, x] += maps[n, c, row, column] * mask
    return out


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 1), (1, 4, 3)])
def test_carafe(kernel, groups, scale):
    maps = normal(2, 4, 3, 5)
    masks = normal(2, groups * kernel * kernel, 3 * scale, 5 * scale, seed=1)
    out = carafe(maps, masks, kernel, groups, scale)
    expected = carafe_by_hand(maps, masks, kernel, groups, scale)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(CARAFENaive(kernel, groups, scale)(maps, masks), expected)
    options = (kernel, groups, scale)
    assert torch.autograd.gradcheck(
        lambda *parts: carafe(*parts, *options), (maps, masks), fast_mode=True
    )
    grad = normal(*out.shape, seed=2).detach()
    into = torch.zeros_like(maps), torch.zeros_like(masks)
    carafe_naive_backward(grad, maps.detach(), masks.detach(), *into, *options)
    for own, derivative in zip(into, torch.autograd.grad(out, (maps, masks), grad)):
        torch.testing.assert_close(own, derivative)


@pytest.mark.parametrize('dtype', HALVES)
def test_carafe_in_reduced_precision(dtype):
    maps, masks = normal(1, 2, 3, 4, dtype=dtype), normal(1, 9, 6, 8, seed=1, dtype=dtype)
    out = carafe(maps, masks, 3, 1, 2)
    exact = carafe(maps.detach().double(), masks.detach().double(), 3, 1, 2)
    torch.testing.assert_close(out, exact.to(dtype))
    out.float().sum().backward()
    assert maps.grad.dtype == masks.grad.dtype == dtype


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 3), (0, 1)), ((5, 3), (2, 1))])
def test_masked_convolution(kernel, padding, dtype):
    layer = MaskedConv2d(3, 4, kernel, padding=padding).to(dtype)
    x = normal(1, 3, 5, 6, dtype=dtype).detach()
    mask = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.6
    with torch.no_grad():
        tolerance = {} if dtype not in HALVES else {'rtol': 5e-2, 'atol': 5e-2}
        torch.testing.assert_close(layer(x, mask), layer(x) * mask, **tolerance)
        assert layer(x, mask & False).abs().sum() == 0


def pool_by_hand(maps, rois, offset, size, scale, sampling, gamma):
    out = torch.zeros(len(rois), maps.shape[1], *size, dtype=torch.float64)
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (side * scale - 0.5 for side in box)
        grid = [sampling or math.ceil(s / b) for s, b in zip((y2 - y1, x2 - x1), size)]
        for c, row, column in torch.cartesian_prod(*map(torch.arange, out.shape[1:])).tolist():
            moved = [0, 0] if offset is None else offset[k, :, row, column].tolist()
            total = 0
            for i in range(grid[0]):
                for j in range(grid[1]):
                    y = y1 + (row + (i + 0.5) / grid[0]) * (y2 - y1) / size[0]
                    x = x1 + (column + (j + 0.5) / grid[1]) * (x2 - x1) / size[1]
                    x, y = x + gamma * (x2 - x1) * moved[0], y + gamma * (y2 - y1) * moved[1]
                    total += clamped_bilinear(maps[int(image), c], y, x)
            out[k, c, row, column] = total / max(grid[0] * grid[1], 1)
    return out


ROIS = torch.tensor(
    [[1, 3, 2, 30, 20], [0, 0, 0, 17, 9], [0, -6, 4, 40, 50], [1, 8, 8, 8, 8], [1, 9, 2, 3, 8]]
).double()


@pytest.mark.parametrize('with_offset', [False, True])
@pytest.mark.parametrize('sampling', [0, 2])
@pytest.mark.parametrize('at_a_time', [1, 2**24])
def test_deformable_pooling(sampling, with_offset, at_a_time, monkeypatch):
    monkeypatch.setattr(deform_roi_pool, '_AT_A_TIME', at_a_time)
    maps = normal(2, 3, 7, 9)
    offset = normal(5, 2, 2, 3, seed=1) if with_offset else None
    layer = DeformRoIPool((2, 3), 0.25, sampling, 0.3)
    out = layer(maps, ROIS, offset)
    expected = pool_by_hand(maps, ROIS, offset, (2, 3), 0.25, sampling, 0.3)
    torch.testing.assert_close(out, expected)
    sources = (maps,) if offset is None else (maps, offset)
    assert torch.autograd.gradcheck(
        lambda maps, offset=None: layer(maps, ROIS, offset), sources, fast_mode=True
    )


@pytest.mark.parametrize('dtype', [torch.float32, *HALVES])
@pytest.mark.parametrize('pack', [DeformRoIPoolPack, ModulatedDeformRoIPoolPack])
def test_packs_of_deformable_pooling(pack, dtype):
    layer = pack((2, 2), 3, 8, 0.25).to(dtype)
    maps = normal(2, 3, 7, 9, dtype=dtype)
    layer(maps, ROIS.to(dtype)).float().sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().sum() > 0
    empty = DeformRoIPool((2, 2), 0.25)(maps, torch.zeros(0, 5, dtype=dtype))
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()


def psa_by_hand(masks, kind, mask_size):
    count, _, height, width = masks.shape
    out = torch.zeros(count, height * width, height, width, dtype=masks.dtype)
    half = [(side - 1) // 2 for side in mask_size]
    for n, k, y, x in torch.cartesian_prod(*map(torch.arange, masks.shape)).tolist():
        row, column = y + k // mask_size[1] - half[0], x + k % mask_size[1] - half[1]
        if 0 <= row < height and 0 <= column < width:
            if kind == 'collect':
                out[n, row * width + column, y, x] = masks[n, k, y, x]
            else:
                out[n, y * width + x, row, column] = masks[n, k, y, x]
    return out


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('mask_size', [(7, 9), (3, 3), (5, 1), (4, 6)])
def test_psa_masks(kind, mask_size):
    masks = normal(2, mask_size[0] * mask_size[1], 4, 5)
    layer = PSAMask(kind, mask_size)
    assert torch.equal(layer(masks), psa_by_hand(masks, kind, mask_size))
    assert torch.autograd.gradcheck(layer, masks, fast_mode=True)


@pytest.mark.parametrize('dtype', HALVES)
def test_psa_masks_in_reduced_precision(dtype):
    masks = normal(1, 9, 3, 4, dtype=dtype)
    out = PSAMask('collect', (3, 3))(masks)
    assert torch.equal(out, psa_by_hand(masks, 'collect', (3, 3)))
