"""Intervals of mIoU where a few images carry most of a class."""

import numpy as np
import pytest

from downstream.analysis.recounting.figures import ious, ious_without
from downstream.analysis.recounting.samples import Samples


def pixels(images: int, classes: int = 8, tail: float = 1.0) -> np.ndarray:
    """Pixels right, annotated and predicted ``(3, N, C)``; areas as heavy-tailed as ``tail`` says."""
    rng = np.random.default_rng(1)
    there = rng.random((images, classes)) < np.linspace(0.9, 0.15, classes)
    annotated = np.floor(rng.lognormal(7, tail, (images, classes)) * there)
    logit = rng.normal(1.2, 1, (images, classes)) + 0.7 * rng.normal(size=(images, 1))
    right = np.floor(annotated / (1 + np.exp(-logit)))
    wrong = rng.lognormal(5.2, tail, (images, classes)) * (rng.random((images, classes)) < 0.5)
    return np.stack([right, annotated, right + np.floor(wrong)])


def test_figures_without_an_image_are_those_of_the_others():
    counts = pixels(12, 3)
    for image in range(12):
        others = ious(np.delete(counts, image, 1), np.ones((11, 1)))[:, 0]
        assert ious_without(counts)[:, image] == pytest.approx(others, nan_ok=True)


def test_an_interval_is_wider_where_one_image_carries_a_class():
    counts = pixels(40, 1)
    drawn = Samples.draw(40, 0, 200)
    sampled, whole = ious(counts, drawn.weights)[0], ious(counts, np.ones((40, 1)))[0, 0]
    known = drawn.interval(whole, sampled, 40, 100)
    even = drawn.interval(whole, sampled, 40, 100, np.arange(40.0))
    one = drawn.interval(whole, sampled, 40, 100, np.eye(40)[0])
    wide = [found.high - found.low for found in (known, even, one)]
    # Student's quantiles from a table: 1.960 of infinitely many degrees of freedom, 2.023 of 39.
    assert wide[1] / wide[0] == pytest.approx(2.023 / 1.960, abs=1e-3)
    # The kurtosis of one in n is n - 5 + 1 / (n - 1), which leaves 2.16 degrees of freedom of 40.
    assert wide[2] / wide[0] > 2


def coverage(images: int, simulations: int) -> tuple[float, float]:
    """How often the intervals of mIoU, and of a difference, hold that of 8,000 images."""
    first = pixels(8000)
    rng = np.random.default_rng(3)
    lost = np.floor(first[0] * rng.beta(1, 12, first[0].shape))
    both = first, np.stack([first[0] - lost, first[1], first[2] - lost])
    true = [ious(one, np.ones((8000, 1))).mean() for one in both]
    held = np.zeros(2)
    for seed in range(simulations):
        chosen = rng.choice(8000, images, replace=False)
        parts = [one[:, chosen] for one in both]
        drawn = Samples.draw(images, seed, 200)
        whole = [ious(one, np.ones((images, 1))).mean() for one in parts]
        sampled = [ious(one, drawn.weights).mean(0) for one in parts]
        moved = [here - ious_without(one).mean(0) for here, one in zip(whole, parts)]
        single = drawn.interval(whole[0], sampled[0], images, 100, moved[0])
        difference = drawn.difference(whole, sampled, images, 100, moved[1] - moved[0])
        held += (
            single.low <= true[0] <= single.high,
            difference.low <= true[1] - true[0] <= difference.high,
        )
    return tuple(held / simulations)


def test_intervals_hold_the_true_figure_in_a_few_simulations():
    # Of 60 with a chance of 0.95 each, fewer than 51 are held twice in 1000 times.
    assert min(coverage(60, 60)) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize('images', [50, 100, 200])
def test_intervals_hold_the_true_figure_in_300_simulations(images):
    single, difference = coverage(images, 300)
    assert single >= 0.93
    # The few images that decide a difference are missing from the samples that find it small.
    assert difference >= 0.9
