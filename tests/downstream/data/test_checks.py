"""Checks of data sets: what passes, what is only said, and how large sets are treated."""

import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from PIL import Image

from backbones import ConfigError, DataError
from downstream.data import files
from downstream.data.checks import coco, masks
from downstream.data.checks.datasets import check_datasets
from downstream.data.checks.masks import check_mask_values
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
    monkeypatch.setattr(coco, 'FULL_JSON_BYTES', 100)
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
    monkeypatch.setattr(files, 'FULL_FILES', 2)
    monkeypatch.setattr(files, 'SAMPLE', 1)
    (data / 'annotations' / 'training' / 'shapes_training_0003.png').write_bytes(b'bad')
    check_datasets(cfg, ('train',))
    with pytest.raises(DataError, match='0003.png'):
        check_datasets(cfg, ('train',), full=True)


def test_a_sample_of_masks_condemns_no_set(shapes, tmp_path, monkeypatch):
    """Masks of nothing to learn are refused when all of them are of that kind, and only then."""
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    cfg = config('segmentation', data, tmp_path)
    monkeypatch.setattr(files, 'FULL_FILES', 2)
    monkeypatch.setattr(files, 'SAMPLE', 1)
    masks = sorted((data / 'annotations' / 'training').glob('*.png'))
    for path in masks[:3]:
        Image.fromarray(np.full((256, 320), 255, np.uint8)).save(path)
    check_datasets(cfg, ('train',))
    Image.fromarray(np.zeros((256, 320), np.uint8)).save(masks[3])
    with pytest.raises(DataError, match='0 and 255 alone; both are unlabelled'):
        check_datasets(cfg, ('train',))


def test_a_subset_of_the_categories_may_be_learnt(shapes, tmp_path):
    cfg = config('detection', shapes, tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo = {'classes': ('circle', 'square')}
    with pytest.raises(ConfigError, match='_head has num_classes=3, but train_dataloader'):
        check_datasets(cfg, ('train', 'val'))
    for head in (*cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 2
    check_datasets(cfg, ('train', 'val'))


def test_the_classes_of_a_one_stage_head_are_checked(shapes, tmp_path):
    cfg = config('detection', shapes, tmp_path)
    cfg.model = ConfigDict(type='DINODetector', bbox_head=dict(num_classes=80))
    with pytest.raises(ConfigError, match=r'model\.bbox_head has num_classes=80'):
        check_datasets(cfg, ('train', 'val'))
    cfg.model.language_model = dict(type='BertModel')  # its classes are words
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


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What the checks log."""
    messages: list[str] = []
    for module in (coco, masks):
        monkeypatch.setattr(module, 'print_log', lambda message, *_: messages.append(message))
    return messages


def test_boxes_that_are_left_out_are_counted(shapes, tmp_path, logged):
    def spoil(content):
        content['annotations'][0]['bbox'][2] = 0
        content['annotations'][1]['bbox'][2] = -3
        content['annotations'][2]['bbox'][0] = 99999

    cfg = changed_annotations(shapes, tmp_path, spoil)
    check_datasets(cfg, ('train', 'val'))
    (message,) = (line for line in logged if 'left out' in line)
    assert 'instances_training.json: of 21 boxes 2 thinner than 1 px, of negative size' in message
    assert message.endswith('or without area, 1 outside of their image are left out.')


def changed_annotations(shapes, tmp_path, change) -> Config:
    """A config of a copy of the data, whose training annotations ``change`` has edited."""
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    path = data / 'annotations' / 'instances_training.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return config('detection', data, tmp_path)


@pytest.mark.parametrize('value', [[], None, 'absent'])
def test_annotations_without_masks_stop_a_model_with_masks(value, shapes, tmp_path):
    def change(content):
        for annotation in content['annotations'][:3]:
            annotation['segmentation'] = value
            if value == 'absent':
                del annotation['segmentation']
        content['annotations'][3].update(segmentation=[], bbox=[1, 1, 0, 0])  # left out anyhow

    cfg = changed_annotations(shapes, tmp_path, change)
    message = (
        r'^3 of \d+ annotations of .*training.json have no segmentation, the first: 1, but masks'
    )
    with pytest.raises(DataError, match=message):
        check_datasets(cfg, ('train',))
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'LoadAnnotations':
            step.with_mask = False
    check_datasets(cfg, ('train',))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'bbox': ['12.0', '3', '4', '5']}, r"bbox \['12.0', '3', '4', '5'\] .*four numbers"),
        ({'bbox': [1, 2, 3]}, 'must be four numbers'),
        ({'category_id': '1'}, "annotation 1 has category '1', which the file does not list"),
    ],
)
def test_annotations_that_mmdet_would_fail_on(changes, message, shapes, tmp_path):
    cfg = changed_annotations(
        shapes, tmp_path, lambda content: content['annotations'][0].update(changes)
    )
    with pytest.raises(DataError, match=message):
        check_datasets(cfg, ('train',))


def test_only_a_test_that_computes_nothing_may_lack_annotations(shapes, tmp_path):
    cfg = changed_annotations(shapes, tmp_path, lambda content: content.pop('annotations'))
    cfg.test_dataloader = cfg.train_dataloader
    with pytest.raises(DataError, match='has no list annotations'):
        check_datasets(cfg, ('test',))
    cfg.test_evaluator.format_only = True
    check_datasets(cfg, ('test',))


def turn(path) -> None:
    """Write the image of ``path`` turned by 90 degrees, with an EXIF tag that turns it back."""
    image = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    image.save(path, exif=exif)


def test_the_size_of_a_turned_image_is_that_of_its_loaded_pixels(shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    image = data / 'images' / 'training' / 'shapes_training_0001.jpg'
    turn(image)
    cfg = config('detection', data, tmp_path)
    assert Image.open(image).size == (256, 320)
    check_datasets(cfg, ('train',))  # OpenCV turns it back to the stated size
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    with pytest.raises(DataError, match=r'0001.jpg is 256 x 320, but .* says 320 x 256\.$'):
        check_datasets(cfg, ('train',))

    path = data / 'annotations' / 'instances_training.json'
    content = json.loads(path.read_text())
    entry = next(i for i in content['images'] if i['file_name'] == image.name)
    entry.update(width=256, height=320)
    path.write_text(json.dumps(content))
    check_datasets(cfg, ('train',))
    del cfg.train_dataloader.dataset.pipeline[0]['color_type']
    with pytest.raises(
        DataError, match='is 320 x 256, but .* says 256 x 320. Its EXIF tag turns it'
    ):
        check_datasets(cfg, ('train',))


def test_a_mask_has_the_size_of_the_loaded_image(shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    cfg = config('segmentation', data, tmp_path)
    turn(data / 'images' / 'training' / 'shapes_training_0001.jpg')
    check_datasets(cfg, ('train',))
    turn(mask := data / 'annotations' / 'training' / 'shapes_training_0001.png')
    with pytest.raises(
        DataError, match=f'{mask.name} is 256 x 320, but .* is 320 x 256. Its EXIF tag'
    ):
        check_datasets(cfg, ('train',))


def test_images_of_another_suffix_are_named(shapes, tmp_path, logged):
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    cfg = config('segmentation', data, tmp_path)
    images = sorted((data / 'images' / 'training').iterdir())
    images[0].rename(images[0].with_suffix('.JPG'))
    check_datasets(cfg, ('train',))
    assert '3 files end in .jpg (img_suffix) and are used; 1 *.JPG are not.' in logged[0]
    for path in images[1:]:
        path.rename(path.with_suffix('.png'))
    with pytest.raises(
        DataError, match=r'no \*.jpg in .*It has 3 \*.png, 1 \*.JPG: set train_dataloader'
    ):
        check_datasets(cfg, ('train',))


def test_two_parts_of_one_folder_of_masks_are_told_apart(shapes, tmp_path, logged):
    """``--data`` splits a set into two lists of one folder."""
    cfg = config('segmentation', shapes, tmp_path)
    dataset = cfg.train_dataloader.dataset
    names = [p.stem for p in sorted((shapes / 'images' / 'training').iterdir())]
    (tmp_path / 'mine.txt').write_text('\n'.join(names))
    dataset.ann_file = str(tmp_path / 'mine.txt')
    dataset.metainfo = dict(classes=['background', 'a', 'b', 'c', 'never'])
    masks.check_masks('train_dataloader.dataset', dataset, full=False)
    assert any('(mine.txt) has no pixel of 1 of 5 classes: never' in line for line in logged)
