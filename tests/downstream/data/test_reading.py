"""Files that break while a run goes on: named, left out or fatal, and never outside of their data set."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import DataError
from downstream.data.checks.coco import reason_to_leave_out
from downstream.data.findings.records import sound_records
from downstream.data.reading import CheckedLoader, UnreadableError, is_cut_off, require_within
from downstream.running.config import TrainOptions
from downstream.running.train import train
from tests.conftest import write_tiny_config


@pytest.fixture
def photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    def save(name: str, **options):
        Image.fromarray(noise).save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('a.jpg', {}),
        ('a.jpg', {'progressive': True}),
        ('a.png', {}),
        ('a.bmp', {}),
    ],
)
def test_a_file_that_ends_early_is_told_from_a_whole_one(name, options, photo):
    path = photo(name, **options)
    whole = path.read_bytes()
    assert not is_cut_off(path)
    path.write_bytes(whole + b'\0\0\0')
    assert not is_cut_off(path)
    path.write_bytes(whole + b'something else follows in some files' * 3)
    assert not is_cut_off(path)
    if name != 'a.bmp':
        for part in (0.3, 0.6, 0.99):
            path.write_bytes(whole[: int(len(whole) * part)])
            assert is_cut_off(path)


@pytest.mark.parametrize(
    ('path', 'inside'),
    [
        ('/data/set/images/a.jpg', True),
        ('/data/set/images/b/../a.jpg', True),
        ('/data/set/../secret.jpg', False),
        ('/data/settings/a.jpg', False),
        ('/etc/passwd', False),
        ('s3://bucket/set/a.jpg', True),
        ('s3://bucket/set/../other/a.jpg', False),
    ],
)
def test_names_do_not_lead_out_of_the_data_set(path, inside):
    roots = ['/data/set', 's3://bucket/set']
    if inside:
        require_within(path, roots)
    else:
        with pytest.raises(UnreadableError, match='is outside of /data/set'):
            require_within(path, roots)
    require_within(path, ['/', 's3://bucket'])


def copy_of(shapes, tmp_path, task: str, extra: str = ''):
    """A copy of the data, and a config of two steps on it."""
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    config = write_tiny_config(task, data, tmp_path)
    with open(config, 'a') as file:
        file.write(f'train_cfg.update(val_interval=9)\nrandomness = dict(seed=1)\n{extra}')
    return data, config


def run(config, tmp_path, check_data: str = 'no'):
    return train(TrainOptions(str(config), work_dir=str(tmp_path / 'run')), check_data)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_cut_off_image_stops_a_run(task, workers, shapes, tmp_path):
    extra = f'train_dataloader.update(num_workers={workers}, persistent_workers=False)\n'
    data, config = copy_of(shapes, tmp_path, task, extra)
    for path in (data / 'images' / 'training').iterdir():
        cut(path)
    with pytest.raises(UnreadableError, match=r'shapes_training_\d+.jpg cannot be read: .*cut off'):
        run(config, tmp_path)


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_some_may_be_left_out(task, shapes, tmp_path, capsys):
    extra = (
        'default_hooks = dict(unreadable=dict(skips=1))\n'
        "train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True))\n"
    )
    data, config = copy_of(shapes, tmp_path, task, extra)
    broken = data / 'images' / 'training' / 'shapes_training_0002.jpg'
    assert broken.is_file()
    cut(broken)
    state = run(config, tmp_path).model.state_dict()
    shown = capsys.readouterr().out
    reason = 'cannot be read: it is no image, or cut off; another sample replaces it'
    assert f'{broken} {reason}' in shown
    assert '1 files were replaced by others in the training' in shown
    # the same run does the same again
    again = run(config, tmp_path).model.state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)


def test_no_more_than_were_allowed(shapes, tmp_path):
    extra = (
        'default_hooks = dict(unreadable=dict(skips=1))\n'
        "train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=False))\n"
    )
    data, config = copy_of(shapes, tmp_path, 'segmentation', extra)
    for path in sorted((data / 'images' / 'training').iterdir())[:2]:
        cut(path)
    with pytest.raises(UnreadableError, match=r'1 files were replaced before it.*unreadable.skips'):
        run(config, tmp_path)


def test_nothing_readable_is_no_endless_loop(shapes, tmp_path):
    data, config = copy_of(
        shapes, tmp_path, 'segmentation', 'default_hooks = dict(unreadable=dict(skips=99))\n'
    )
    for path in (data / 'annotations' / 'training').iterdir():
        path.write_bytes(b'no mask')
    with pytest.raises(UnreadableError, match='10 files in a row cannot be read, the last: .*png'):
        run(config, tmp_path)


def test_annotations_without_masks_are_no_unreadable_image(shapes, tmp_path):
    # Not even where unreadable images may be left out: the images are fine.
    extra = 'default_hooks = dict(unreadable=dict(skips=99))\n'
    data, config = copy_of(shapes, tmp_path, 'detection', extra)
    change_annotations(data, lambda c: [a.update(segmentation=[]) for a in c['annotations']])
    message = r'^an annotation of .*\.jpg has no segmentation, but masks are to be loaded'
    with pytest.raises(DataError, match=message) as caught:
        run(config, tmp_path)
    assert not isinstance(caught.value, UnreadableError)


class LoadAnnotations:
    """A transform that fails as one of the user's own may."""

    def __call__(self, results: dict) -> dict:
        return results['depth']


def test_a_failure_without_a_file_is_not_blamed_on_the_image():
    message = "^the annotations of a.jpg cannot be loaded: KeyError: 'depth'"
    with pytest.raises(DataError, match=message):
        CheckedLoader(LoadAnnotations(), ['/'])({'img_path': 'a.jpg'})


def change_annotations(data, change) -> None:
    for path in (data / 'annotations').glob('instances_training.json'):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


@pytest.mark.parametrize('check_data', ['quick', 'no'])
def test_annotations_that_lead_elsewhere(check_data, shapes, tmp_path):
    data, config = copy_of(shapes, tmp_path, 'detection')
    secret = shutil.copy(next((data / 'images' / 'training').iterdir()), tmp_path / 'secret.jpg')

    def lead_out(content):
        for image in content['images']:
            image['file_name'] = '../../../secret.jpg'

    change_annotations(data, lead_out)
    assert (data / 'images' / 'training' / '../../../secret.jpg').samefile(secret)
    with pytest.raises(DataError, match=r'secret.jpg is outside of .*data_root'):
        run(config, tmp_path, check_data)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({}, None),
        ({'bbox': [1, 1, 0, 5]}, 'flat'),
        ({'bbox': [1, 1, -4, 5]}, 'flat'),
        ({'area': 0}, None),  # as if it were missing
        ({'bbox': [20, 1, 4, 5]}, 'outside'),
        ({'bbox': [-9, 1, 9, 5]}, 'outside'),
        ({'category_id': 7}, 'unknown'),
        ({'bbox': [1, 1, 0, 5], 'ignore': 1}, None),
    ],
)
def test_the_report_agrees_with_what_mmdet_leaves_out(changes, reason, tmp_path):
    from mmdet.datasets import CocoDataset

    annotation = {'id': 1, 'image_id': 1, 'category_id': 3, 'bbox': [1, 1, 4, 5], 'area': 20}
    annotation |= {'iscrowd': 0, 'segmentation': []} | changes
    image = {'id': 1, 'file_name': 'a.jpg', 'width': 20, 'height': 20}
    content = {
        'images': [image],
        'annotations': [annotation],
        'categories': [{'id': 3, 'name': 'thing'}, {'id': 7, 'name': 'other'}],
    }
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'a.json'),
        data_prefix={'img': ''},
        metainfo={'classes': ('thing',)},
        pipeline=[],
    )
    kept = len(dataset.get_data_info(0)['instances'])
    assert kept == (0 if reason or annotation.get('ignore') else 1)
    content, _ = sound_records('a.json', content)  # completed, as mmdet reads it here
    assert reason_to_leave_out(content['annotations'][0], image, dataset.cat_ids) == reason
