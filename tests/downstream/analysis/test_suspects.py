"""Faults planted in real annotations are among the first suspects."""

import numpy as np
import pytest

from downstream.analysis.suspects import suspects

from . import samples
from .planting import is_true, planted
from .test_worst import squares


def first_true(share: float, count: int, seed: int, masks: bool = False) -> tuple[int, int]:
    """How many of the first suspects are planted faults, and of all of them."""
    truth = samples.sample('train', 'val')
    found = samples.perturbed(truth, seed, masks)
    wrong, faults = planted(truth, share, seed=seed + 100)
    listed = suspects(wrong, found, samples.rules(wrong), samples.names(wrong))
    true = [is_true(one, faults) for one in listed]
    return sum(true[:count]), sum(true)


def test_planted_faults_are_among_the_first_suspects():
    """42 faults in 842 objects, of which the detector contradicts about 28.

    It is as sure of some 14 objects that are not there, which look like those without annotation.
    """
    first, contradicted = np.array([first_true(0.05, 50, seed) for seed in range(3)]).mean(0)
    assert first >= 18
    assert first >= 0.65 * contradicted


def test_of_many_faults_the_first_suspects_are_nearly_all_true():
    first, _ = np.array([first_true(0.15, 50, seed) for seed in range(3)]).mean(0)
    assert first >= 36


def test_masks_show_faults_as_boxes_do():
    first, contradicted = first_true(0.05, 50, seed=0, masks=True)
    assert first >= 0.6 * contradicted > 10


def test_right_annotations_of_a_right_detector_are_no_suspects():
    truth = samples.sample('val')
    truth['annotations'] = [one for one in truth['annotations'] if not one['iscrowd']]
    found = samples.perturbed(truth, seed=0)
    place = {one['id']: n for n, one in enumerate(truth['categories'])}
    rows = {one['id']: [] for one in truth['images']}
    for one in truth['annotations']:
        rows[one['image_id']].append(one)
    ordered = [one for part in rows.values() for one in part]
    exact = type(found)(
        images=list(rows),
        counts=[len(part) for part in rows.values()],
        labels=np.array([place[one['category_id']] for one in ordered]),
        categories=found.categories,
        boxes=np.array([one['bbox'] for one in ordered], float),
        scores=np.full(len(ordered), 0.9),
    )
    assert suspects(truth, exact, samples.rules(truth), samples.names(truth)) == []


def test_each_kind_names_what_it_is():
    """Sure detections: of another class, beside an object of its class, of nothing."""
    truth, found, rules, names = squares(
        [[40, 0, 10, 10], [7, 0, 10, 10], [60, 60, 20, 20]], [0, 0, 1], [0.9, 0.9, 0.9]
    )
    listed = {one.kind: one for one in suspects(truth, found, rules, names)}
    assert set(listed) == {'label', 'box', 'missing'}
    label, box, missing = listed['label'], listed['box'], listed['missing']
    assert (label.annotation, label.annotated, label.predicted) == (2, 'b', 'a')
    assert label.iou == 1
    assert (box.annotation, box.annotated_box) == (1, (0, 0, 10, 10))
    assert box.iou == pytest.approx(30 / 170)
    assert (missing.annotation, missing.predicted_box) == (None, (60, 60, 20, 20))
    assert {one.file_name for one in listed.values()} == {'1.jpg'}
    assert all(0 < one.suspicion < 1 for one in listed.values())


def test_annotations_that_nothing_was_detected_at():
    listed = suspects(*squares([], [], []))
    assert [(one.kind, one.annotation, one.score) for one in listed] == [
        ('extra', 1, None),
        ('extra', 2, None),
    ]


def test_what_lies_in_a_crowd_and_what_is_found_twice_is_no_suspect():
    truth, found, rules, names = squares(
        [[0, 0, 10, 10], [1, 0, 10, 10], [40, 0, 10, 10]], [0, 0, 1], [0.9, 0.8, 0.9]
    )
    assert suspects(truth, found, rules, names) == []
    crowded = type(found)(
        [2], [1], np.array([0]), found.categories, np.array([[1.0, 1, 5, 5]]), np.array([0.9])
    )
    listed = suspects(truth, crowded, rules, names)
    assert {one.kind for one in listed} == {'extra'}
