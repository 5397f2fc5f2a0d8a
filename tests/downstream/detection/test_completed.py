"""Annotations without ids, areas or iscrowd train and are evaluated as the complete ones."""

import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from pycocotools.coco import COCO

from downstream.data.findings.completion import complete
from downstream.detection import CocoInstanceMetric
from downstream.quiet import without_coco_output
from tests.support.real_data import DATA, needs_data


@pytest.fixture
def incomplete(shapes, tmp_path):
    """The annotations of the small data set without what can be computed; and the complete ones."""
    complete = shapes / 'annotations' / 'instances_training.json'
    content = json.loads(complete.read_text())
    for annotation in content['annotations']:
        annotation['id'] = 1
        del annotation['area']
        if not annotation['iscrowd']:
            del annotation['iscrowd']
    del content['annotations'][2]['id']
    path = tmp_path / 'incomplete.json'
    path.write_text(json.dumps(content))
    return path, complete


def test_the_targets_are_the_same(incomplete):
    sets = []
    for path in incomplete:
        with without_coco_output():
            dataset = CocoDataset(
                ann_file=str(path),
                data_prefix=dict(img=''),
                metainfo=dict(classes=('circle', 'square', 'triangle')),
                pipeline=[],
            )
        sets.append([dataset.get_data_info(i)['instances'] for i in range(len(dataset))])
    assert sum(map(len, sets[1])) > 10
    assert sets[0] == sets[1]


def test_labels_follow_the_classes_of_the_config(shapes, tmp_path):
    """Training and validation files may list their categories in different orders."""
    content = json.loads((shapes / 'annotations' / 'instances_training.json').read_text())
    classes = ('circle', 'square', 'triangle')
    labels = []
    for reverse in (False, True):
        content['categories'].sort(key=lambda category: category['id'], reverse=reverse)
        path = tmp_path / f'{reverse}.json'
        path.write_text(json.dumps(content))
        with without_coco_output():
            dataset = CocoDataset(
                ann_file=str(path),
                data_prefix=dict(img=''),
                metainfo=dict(classes=classes),
                pipeline=[],
            )
        infos = [dataset.get_data_info(i)['instances'] for i in range(len(dataset))]
        labels.append([[one['bbox_label'] for one in instances] for instances in infos])
        truth = CocoInstanceMetric(ann_file=str(path))._coco_api
        assert [truth.cats[i]['name'] for i in truth.get_cat_ids(cat_names=classes)] == [*classes]
    assert labels[0] == labels[1]
    assert {label for one in labels[0] for label in one} == {0, 1, 2}


def test_the_truth_of_the_evaluation_is_complete(incomplete):
    path, complete = incomplete
    truth = CocoInstanceMetric(ann_file=str(path))._coco_api
    with without_coco_output():
        reference = COCO(str(complete))
    found = truth.dataset['annotations']
    expected = reference.dataset['annotations']
    assert len({one['id'] for one in found}) == len(found) == len(truth.anns)
    assert [one['iscrowd'] for one in found] == [one['iscrowd'] for one in expected]
    areas = [
        sum(cv2.contourArea(np.array(p, np.float32).reshape(-1, 2)) for p in one['segmentation'])
        if isinstance(one['segmentation'], list)
        else reference.annToMask(one).sum()
        for one in expected
    ]
    np.testing.assert_allclose([one['area'] for one in found], areas, rtol=1e-5)


@needs_data
def test_computed_areas_are_those_of_cocos_own_file():
    path = DATA / 'tiny_coco' / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    polygons = [one for one in content['annotations'] if not one['iscrowd']]
    stated = [one.pop('area') for one in polygons]
    assert {kind for one in polygons for kind in complete(one)} == {'area-missing'}
    np.testing.assert_allclose([one['area'] for one in polygons], stated, rtol=1e-9)


def test_a_match_with_id_0_is_no_miss(shapes, tmp_path):
    source = shapes / 'annotations' / 'instances_training.json'
    content = json.loads(source.read_text())
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = number
    path = tmp_path / 'from_zero.json'
    path.write_text(json.dumps(content))
    truth = CocoInstanceMetric(ann_file=str(path))._coco_api
    ids = [one['id'] for one in truth.dataset['annotations']]
    assert min(ids) > 0
    assert len(set(ids)) == len(ids)
    assert ids[1:] == list(range(1, len(ids)))  # the others keep theirs


def test_categories_are_sorted_on_demand(shapes, tmp_path):
    content = json.loads((shapes / 'annotations' / 'instances_training.json').read_text())
    content['categories'].reverse()
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for sort in (False, True):
        metric = CocoInstanceMetric(ann_file=str(tmp_path / 'a.json'), sort_categories=sort)
        ids = metric._coco_api.get_cat_ids()
        assert ids == sorted(ids, reverse=not sort)
