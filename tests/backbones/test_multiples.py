"""Padding to multiples; for sizes that a trace leaves open see the tests of exports."""

import pytest
import torch

from backbones.multiples import cells, crop_to_stride, pad_to_multiple


@pytest.mark.parametrize(('length', 'size', 'expected'), [(1, 4, 1), (8, 4, 2), (9, 4, 3)])
def test_cells_are_rounded_up(length, size, expected):
    assert cells(length, size) == expected


def test_what_is_a_multiple_stays():
    x = torch.ones(1, 2, 8, 12)
    assert pad_to_multiple(x, 4) is x
    padded = pad_to_multiple(x[..., :5, :], 4)
    assert padded.shape == x.shape
    assert padded.sum() == 2 * 5 * 12


def test_a_map_within_an_image():
    assert crop_to_stride(torch.ones(1, 1, 8, 8), 13, 16, 4).shape == (1, 1, 4, 4)
