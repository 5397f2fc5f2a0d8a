"""A schedule that does not fit its run is said; one that does is not."""

import pytest

from downstream.running.schedule.fit import misfits

WARM_UP = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=501)
STEPS = dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1)
POLY = dict(type='PolyLR', power=1.0, by_epoch=False, begin=0, end=160001)


def test_the_papers_runs_fit():
    assert misfits([WARM_UP, STEPS], 36, 36 * 7330) == []
    assert misfits([dict(WARM_UP, end=1501), POLY], None, 160_000) == []


@pytest.mark.parametrize(
    ('epochs', 'steps', 'words'),
    [
        (36, 432, ['The warm-up takes 500 steps; the run has 432, and never reaches']),
        (36, 900, ['The warm-up takes 500 steps; the run has 900. ']),
        (12, 12 * 7330, ['never falls at 27, 33 epochs: the run has 12.']),
        (30, 30 * 7330, ['never falls at 33 epochs: the run has 30.']),
    ],
)
def test_short_runs_do_not(epochs, steps, words):
    found = misfits([WARM_UP, STEPS], epochs, steps)
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found))
