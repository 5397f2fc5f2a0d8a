"""Parts of a config that state the same fact must agree, before anything runs."""

import json

import pytest
from mmengine.config import ConfigDict

from backbones import ConfigError, DataError
from downstream.data.checks.agreement import check_class_weights, check_evaluator


def coco(path, *ids) -> str:
    path.write_text(json.dumps({'images': [{'id': i} for i in ids]}))
    return str(path)


def check(tmp_path, loader: tuple, evaluator: str | None) -> None:
    dataset = ConfigDict(data_root=f'{tmp_path}/', ann_file='loader.json')
    coco(tmp_path / 'loader.json', *loader)
    check_evaluator('val', dataset, ConfigDict(type='CocoInstanceMetric', ann_file=evaluator))


def test_an_evaluator_of_another_file_is_said_before_anything_runs(tmp_path):
    other = coco(tmp_path / 'other.json', 1, 2, 7)
    with pytest.raises(
        DataError, match=r'val_evaluator.ann_file=.*other.json lacks 1 of the 3 images'
    ):
        check(tmp_path, (1, 2, 3), other)
    with pytest.raises(DataError, match='does not exist'):
        check(tmp_path, (1, 2, 3), str(tmp_path / 'nothing.json'))


def test_the_same_file_and_one_with_more_images_are_fine(tmp_path):
    check(tmp_path, (1, 2), str(tmp_path / '..' / tmp_path.name / 'loader.json'))
    check(tmp_path, (1, 2), coco(tmp_path / 'more.json', 1, 2, 3))
    check(tmp_path, (1, 2), None)


def test_weights_of_classes_are_as_many_as_classes():
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 3.0])
    segmenter = dict(decode_head=dict(loss_decode=[dict(loss)]))
    with pytest.raises(
        ConfigError, match=r'model\.decode_head\.loss_decode\.0\.class_weight has 3 val'
    ):
        check_class_weights(segmenter, 'train', 4)
    check_class_weights(segmenter, 'train', 3)
    detector = dict(roi_head=dict(bbox_head=[dict(loss_cls=loss)]))
    check_class_weights(detector, 'train', 2)
    with pytest.raises(ConfigError, match='3 classes and the background, so give 4'):
        check_class_weights(detector, 'train', 3)
    # Mask2Former's queries of no object
    segmenter = dict(decode_head=dict(loss_cls=loss))
    check_class_weights(segmenter, 'train', 2)
    with pytest.raises(ConfigError, match=r'panoptic_head\.loss_cls\.class_weight has 3 values'):
        check_class_weights(dict(panoptic_head=dict(loss_cls=loss)), 'train', 3)
