"""Tiles cover a picture, overlap as asked, and have the asked size."""

from itertools import pairwise

import numpy as np
import pytest

from backbones.errors import ConfigError
from downstream.tiles.windows import Tiling


@pytest.mark.parametrize('overlap', [0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize('size', [(64, 64), (65, 200), (640, 129), (50, 300), (10, 12)])
def test_tiles_cover_the_picture_and_overlap(size, overlap):
    height, width = size
    tiling = Tiling(64, overlap)
    rows = tiling.rows(height, width)
    covered = np.zeros(size, int)
    for row in rows:
        for window in row:
            assert window.height == min(64, height)
            assert window.width == min(64, width)
            covered[window.top : window.bottom, window.left : window.right] += 1
    assert covered.min() == 1
    for row in rows:
        for left, right in pairwise(row):
            assert left.right - right.left >= round(64 * overlap)
    for above, below in pairwise(rows):
        assert above[0].bottom - below[0].top >= round(64 * overlap)


def test_a_picture_that_fits_is_one_tile():
    assert [len(row) for row in Tiling(64).rows(64, 30)] == [1]
    assert [len(row) for row in Tiling(64).rows(65, 64)] == [1, 1]


@pytest.mark.parametrize(
    'given', [dict(tile=4), dict(tile=64, overlap=0.6), dict(tile=64, overlap=-1)]
)
def test_impossible_tiles_are_refused(given):
    with pytest.raises(ConfigError, match='--tile 4|--overlap'):
        Tiling(**given)
