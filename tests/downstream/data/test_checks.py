"""Checks of data sets: what passes, what is only said, and how large sets are treated."""

import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config

from backbones import ConfigError, DataError
from downstream.data import checks
from downstream.data.checks import check_datasets, check_mask_values
from tests.conftest import write_tiny_config


def config(task, data, tmp_path, **options) -> Config:
    cfg = Config.fromfile(write_tiny_config(task, data, tmp_path))
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('full', [False, True])
def test_sound_data_pass(task, full, shapes, tmp_path):
    check_datasets(config(task, shapes, tmp_path), ('train', 'val', 'test'), full=full)


def test_a_large_annotation_file_is_read_for_its_categories_alone(shapes, tmp_path, monkeypatch):
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    path = data / 'annotations' / 'instances_training.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['image_id'] = 99  # found by the whole check only
    path.write_text(json.dumps(content))
    cfg = config('detection', data, tmp_path)
    with pytest.raises(DataError, match='image 99'):
        check_datasets(cfg, ('train',))
    monkeypatch.setattr(checks, '_FULL_JSON_BYTES', 100)
    check_datasets(cfg, ('train',))
    with pytest.raises(DataError, match='image 99'):
        check_datasets(cfg, ('train',), full=True)
    content['categories'][0]['name'] = 'disc'
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match='has no category circle'):
        check_datasets(cfg, ('train',))


def test_many_masks_are_sampled_unless_all_are_asked_for(shapes, tmp_path, monkeypatch):
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    cfg = config('segmentation', data, tmp_path)
    monkeypatch.setattr(checks, '_FULL_FILES', 2)
    monkeypatch.setattr(checks, '_SAMPLE', 1)
    (data / 'annotations' / 'training' / 'shapes_training_0003.png').write_bytes(b'bad')
    check_datasets(cfg, ('train',))
    with pytest.raises(DataError, match='0003.png'):
        check_datasets(cfg, ('train',), full=True)


def test_a_subset_of_the_categories_may_be_learnt(shapes, tmp_path):
    cfg = config('detection', shapes, tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo = {'classes': ('circle', 'square')}
    with pytest.raises(ConfigError, match='bbox_head has num_classes=3, but train_dataloader'):
        check_datasets(cfg, ('train', 'val'))
    for head in (*cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 2
    check_datasets(cfg, ('train', 'val'))


def test_training_and_validation_must_have_the_same_classes(shapes, tmp_path):
    cfg = config('detection', shapes, tmp_path)
    cfg.val_dataloader.dataset.metainfo = {'classes': ('square', 'circle', 'triangle')}
    with pytest.raises(ConfigError, match='give both the same metainfo'):
        check_datasets(cfg, ('train', 'val'))


def test_coco_classes_are_the_default(shapes, tmp_path):
    cfg = config('detection', shapes, tmp_path)
    del cfg.train_dataloader.dataset.metainfo
    with pytest.raises(DataError, match=r'has no category person.*metainfo=dict\(classes='):
        check_datasets(cfg, ('train',))


@pytest.mark.parametrize(
    ('values', 'reduce_zero_label', 'wrong'),
    [
        ([0, 1, 4, 255], True, None),
        ([0, 3, 255], False, None),
        ([5], True, 5),
        ([4], False, 4),
        ([254], False, 254),
    ],
)
def test_mask_values(values, reduce_zero_label, wrong):
    mask = np.array([values], np.uint8)
    if wrong is None:
        check_mask_values('a.png', mask, 4, reduce_zero_label)
    else:
        with pytest.raises(DataError, match=f'a.png has the value {wrong} in 1 pixels'):
            check_mask_values('a.png', mask, 4, reduce_zero_label)
