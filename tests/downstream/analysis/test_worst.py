"""Errors of single images: they add up to TIDE's, and are found above a score alone."""

import numpy as np
import pytest

from downstream.analysis.detection import analyse_detections
from downstream.analysis.worst import KINDS, image_errors, worst
from downstream.detection.coco_evaluation import Detections, Rules

from . import samples


@pytest.mark.parametrize('masks', [False, True])
def test_errors_of_images_add_up_to_those_of_tide(masks):
    truth = samples.sample('val')
    truth['annotations'] = [one for one in truth['annotations'] if not one['iscrowd']]
    found = samples.perturbed(truth, seed=5, masks=masks)
    arguments = truth, found, samples.rules(truth), samples.names(truth)
    images = image_errors(*arguments, min_score=0)
    counts = {kind: sum(one.errors[kind] for one in images) for kind in KINDS}
    assert counts == analyse_detections(*arguments).errors.counts
    assert min(counts.values()) > 5
    assert len(images) == 50
    assert [one.total for one in images] == sorted((one.total for one in images), reverse=True)


def squares(rows, labels, scores):
    """Two objects on the first of two images, a crowd on the second; detections on the first."""
    truth = {
        'images': [{'id': n, 'file_name': f'{n}.jpg', 'width': 90, 'height': 90} for n in (1, 2)],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 10, 10], 'area': 100},
            {'id': 2, 'image_id': 1, 'category_id': 2, 'bbox': [40, 0, 10, 10], 'area': 100},
            {'id': 3, 'image_id': 2, 'category_id': 2, 'bbox': [0, 0, 9, 9], 'area': 81, 'iscrowd': 1},
        ],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
    }  # fmt: skip
    found = Detections(
        [1, 2], [len(rows), 0], np.array(labels, int), [1, 2],
        np.array(rows, float).reshape(-1, 4), np.array(scores, float),
    )  # fmt: skip
    return truth, found, Rules([1, 2], [1, 2], np.linspace(0.5, 0.95, 10)), ['a', 'b']


def test_detections_below_the_score_do_not_find_objects():
    arguments = squares([[0, 0, 10, 10], [40, 0, 10, 10]], [0, 0], [0.6, 0.4])
    first, second = image_errors(*arguments, min_score=0.5)
    assert (first.right, first.objects, first.f1) == (1, 2, pytest.approx(2 / 3))
    assert {kind: n for kind, n in first.errors.items() if n} == {'Miss': 1}
    assert (second.objects, second.total, second.f1) == (0, 0, None)
    first, _ = image_errors(*arguments, min_score=0.3)
    assert {kind: n for kind, n in first.errors.items() if n} == {'Cls': 1}
    assert worst([first, second], 'Cls', 5) == [first]
    assert worst([first, second], 'Miss', 5) == []


def test_without_detections_all_is_missed():
    first, second = image_errors(*squares([], [], []))
    assert (first.errors['Miss'], first.f1, second.total) == (2, 0, 0)
