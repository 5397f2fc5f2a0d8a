"""Files are compared with models object by object, whatever the order."""

import numpy as np
import pytest

from downstream.exporting.agreement import difference


def objects(*rows):
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {
        'boxes': table[:, :4],
        'scores': table[:, 4],
        'labels': table[:, 5].astype(np.int64),
        'masks': np.zeros((len(table), 28, 28), np.float32),
    }


LARGE = (0, 0, 100, 100, 0.9, 0)
SMALL = (50, 50, 60, 60, 0.6, 1)
FAINT = (5, 5, 9, 9, 0.31, 1)


def test_the_order_of_objects_does_not_matter():
    assert difference(objects(LARGE, SMALL), objects(SMALL, LARGE)) == 0
    moved = (0.4, 0, 100, 100.4, 0.89, 0)
    assert difference(objects(SMALL, moved), objects(LARGE, SMALL)) == 0
    assert difference(objects(), objects()) == 0


@pytest.mark.parametrize(
    'other',
    [
        (0, 0, 100, 100, 0.9, 1),
        (0, 0, 100, 100, 0.8, 0),
        (20, 0, 120, 100, 0.9, 0),
        (0, 0, 0, 0, 0.9, 0),
    ],
    ids=['class', 'score', 'place', 'empty'],
)
def test_objects_that_are_not_the_same(other):
    expected = (0.9 + other[4]) / (0.9 + other[4] + 1.2)
    assert difference(objects(other, SMALL), objects(LARGE, SMALL)) == pytest.approx(expected)


def test_one_object_has_one_counterpart():
    assert difference(objects(LARGE, LARGE), objects(LARGE)) == pytest.approx(1 / 3)
    assert difference(objects(), objects(LARGE)) == 1


def test_what_is_just_above_the_threshold_may_be_missing():
    assert difference(objects(LARGE), objects(LARGE, FAINT), 0.3) == 0
    assert difference(objects(LARGE), objects(LARGE, FAINT), 0.2) > 0.1


def test_logits_and_classes():
    logits = np.array([[[[-4.0, 2.0]]]], np.float32)
    assert difference({'logits': logits + 0.4}, {'logits': logits}) == pytest.approx(0.1)
    classes = np.array([[[0, 1, 2, 2]]], np.uint8)
    assert difference({'classes': classes}, {'classes': np.roll(classes, 1)}) == 0.75
    assert np.isnan(difference({'logits': logits}, {'logits': logits[0]}))
