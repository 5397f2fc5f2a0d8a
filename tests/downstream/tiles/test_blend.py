"""Blended scores: equal to a blend of whole pictures, which is computed here with all scores at once."""

import numpy as np
import pytest
import torch

from downstream.tiles.blend import BlendedClasses
from downstream.tiles.windows import Tiling


def blended(tiling: Tiling, size, scores_of) -> BlendedClasses:
    made = BlendedClasses(tiling, *size, lambda scores: scores.argmax(0))
    for row in made.rows:
        for window in row:
            made.add(window, scores_of(window))
    return made


SIZES = [(64, 64), (65, 200), (200, 65), (150, 333), (40, 90)]


@pytest.mark.parametrize('overlap', [0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize('size', SIZES)
def test_tiles_that_agree_give_the_classes_of_the_whole(size, overlap):
    scores = torch.randn(5, *size, generator=torch.Generator().manual_seed(0))
    made = blended(
        Tiling(64, overlap), size, lambda w: scores[:, w.top : w.bottom, w.left : w.right]
    )
    assert torch.equal(made.classes.long(), scores.argmax(0))


def ramps(spans, length: int, tiling: Tiling) -> np.ndarray:
    """The weight of every tile of a side at every pixel, ``(tiles, length)``, by interpolation."""
    width = min(64, tiling.shared, (tiling.tile - tiling.shared) // 2)
    weights = np.zeros((len(spans), length))
    x = np.arange(length) + 0.5
    for place, (begin, end) in enumerate(spans):
        rise = fall = np.ones(length)
        if place:
            middle = (begin + spans[place - 1][1] - width) // 2
            rise = np.clip((x - middle) / max(width, 1e-9), 0, 1)
        if place + 1 < len(spans):
            middle = (spans[place + 1][0] + end - width) // 2
            fall = 1 - np.clip((x - middle) / max(width, 1e-9), 0, 1)
        weights[place] = rise * fall
    return weights


@pytest.mark.parametrize('overlap', [0.1, 0.3, 0.5])
@pytest.mark.parametrize('size', SIZES)
def test_tiles_that_differ_are_averaged_by_their_weights(size, overlap):
    tiling, height, width = Tiling(64, overlap), *size
    rows = tiling.rows(height, width)
    random = torch.Generator().manual_seed(1)
    scores = {
        window: torch.randn(4, window.height, window.width, generator=random, dtype=torch.float64)
        for row in rows
        for window in row
    }
    columns = ramps([(w.left, w.right) for w in rows[0]], width, tiling)
    lines = ramps([(row[0].top, row[0].bottom) for row in rows], height, tiling)
    np.testing.assert_allclose(columns.sum(0), 1)
    total = np.zeros((4, height, width))
    for y, row in enumerate(rows):
        for x, w in enumerate(row):
            weight = lines[y, w.top : w.bottom, None] * columns[x, w.left : w.right]
            total[:, w.top : w.bottom, w.left : w.right] += scores[w].numpy() * weight
    made = blended(tiling, size, scores.__getitem__)
    assert np.array_equal(made.classes.numpy(), total.argmax(0))


def test_scores_of_a_strip_are_all_that_is_kept():
    size, kept = (64 * 12, 640), []

    def scores_of(window):
        strips = [made._above, made._beside]
        kept.append(sum(strip.numel() for strip in strips if strip is not None))
        return torch.zeros(3, window.height, window.width)

    made = BlendedClasses(Tiling(64, 0.25), *size, lambda scores: scores.argmax(0))
    for row in made.rows:
        for window in row:
            made.add(window, scores_of(window))
    assert max(kept) <= 3 * 16 * (size[1] + 64)
    assert max(kept) < 3 * size[0] * size[1] / 20


def test_tiles_in_another_order_are_refused():
    made = BlendedClasses(Tiling(64), 64, 128, lambda scores: scores.argmax(0))
    with pytest.raises(ValueError, match='next tile'):
        made.add(made.rows[0][1], torch.zeros(2, 64, 64))
