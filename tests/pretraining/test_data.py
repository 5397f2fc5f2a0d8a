"""Images of folders, of data sets and of configs; what cannot be trained on is named."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torchvision.transforms import v2

from backbones.errors import ConfigError, DataError
from downstream.data.images.read import UnreadableError
from downstream.data.reading import check_reading
from pretraining.data import check_images
from pretraining.sources import images_of
from tests.conftest import write_tiny_config

from .runs import run, write_config


def picture(path, width: int = 90, height: int = 70) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def dataset_of(*sources, size: int = 64):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCropFlip', size=size),
        dict(type='PackImage'),
    ]
    with DefaultScope.overwrite_default_scope('mmengine'):
        dataset = DATASETS.build(
            dict(type='UnlabelledImages', sources=[str(s) for s in sources], pipeline=pipeline)
        )
    check_reading(dataset)
    return dataset


def test_folders_of_any_depth_are_read_each_image_once(tmp_path):
    for name in ('a/x.jpg', 'a/deep/er/y.png', 'b.JPEG', 'a/.hidden/z.jpg'):
        picture(tmp_path / name)
    (tmp_path / 'a' / 'notes.txt').write_text('no image')
    found = images_of([str(tmp_path), str(tmp_path / 'a')])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        'a/deep/er/y.png',
        'a/x.jpg',
        'b.JPEG',
    ]


def test_of_a_known_data_set_its_training_images_are_taken_and_no_mask(shapes):
    found = images_of([str(shapes / 'annotations' / 'instances_training.json')])
    assert found == sorted((shapes / 'images' / 'training').glob('*.jpg'))


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_config_gives_the_images_that_it_trains_on(task, shapes, tmp_path):
    config = write_tiny_config(task, shapes, tmp_path)
    assert images_of([str(config)]) == sorted((shapes / 'images' / 'training').glob('*.jpg'))


def test_a_folder_of_masks_beside_images_gives_the_images(shapes, tmp_path):
    shutil.copytree(shapes / 'images' / 'training', tmp_path / 'set' / 'images')
    shutil.copytree(shapes / 'annotations' / 'training', tmp_path / 'set' / 'masks')
    found = images_of([str(tmp_path / 'set')])
    assert found == sorted((tmp_path / 'set' / 'images').glob('*.jpg'))


def test_a_sample_is_what_torchvision_makes_of_the_pixels(tmp_path):
    picture(tmp_path / 'x.png')
    sample = None
    torch.manual_seed(3)
    sample = dataset_of(tmp_path)[0]
    rgb = Image.open(tmp_path / 'x.png').convert('RGB')
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(64, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    torch.manual_seed(3)
    expected = steps(rgb)
    assert torch.equal(sample['inputs'], expected.flip(0))  # BGR until the preprocessor
    assert sample['data_samples'].img_path == str(tmp_path / 'x.png')


def test_an_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :60] = 255
    exif = Image.Exif()
    exif[274] = 6  # a quarter to the right
    Image.fromarray(pixels).save(tmp_path / 'x.jpg', exif=exif, quality=95)
    results = {'img_path': str(tmp_path / 'x.jpg')}
    dataset = dataset_of(tmp_path)
    loaded = dataset.pipeline.transforms[0](results)
    assert loaded['img'].shape[:2] == (120, 60)
    middle = dataset.pipeline.transforms[1].centred(loaded)['img']
    assert middle.shape == (64, 64, 3)
    assert middle[:20].mean() > 200 > 50 > middle[-20:].mean()


def test_an_image_that_is_cut_off_is_named(tmp_path):
    picture(tmp_path / 'x.jpg')
    content = (tmp_path / 'x.jpg').read_bytes()
    (tmp_path / 'x.jpg').write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableError, match=r'x\.jpg cannot be read'):
        dataset_of(tmp_path)[0]


def test_a_small_image_is_named_in_a_step_as_well(tmp_path):
    picture(tmp_path / 'x.png', 31, 80)
    with pytest.raises(UnreadableError, match=r'x\.png has 31 x 80 pixels; both sides need 32'):
        dataset_of(tmp_path)[0]


@pytest.mark.parametrize(
    ('files', 'kind', 'message'),
    [
        ({}, DataError, 'has no image in it, however deep'),
        ({'a.png': (80, 80)}, ConfigError, r'1 images are fewer than a batch of 2.*--batch-size 1'),
        (
            {'a.png': (80, 80), 'b.png': (20, 80), 'c.png': (80, 9)},
            DataError,
            r'b\.png has 20 x 80 pixels.*2 such files',
        ),
        ({'a.png': (80, 80), 'b.png': None}, DataError, r'b\.png cannot be read'),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_anything_is_written(
    files, kind, message, tmp_path
):
    (tmp_path / 'data').mkdir()
    for name, size in files.items():
        if size:
            picture(tmp_path / 'data' / name, *size)
        else:
            (tmp_path / 'data' / name).write_text('no image')
    with pytest.raises(kind, match=message):
        run(write_config(tmp_path), tmp_path / 'data', tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match='nowhere does not exist'):
        images_of([str(tmp_path / 'nowhere')])
    with pytest.raises(DataError, match='--data DIR'):
        images_of([])


def test_enough_good_images_pass(tmp_path):
    picture(tmp_path / 'x.png', 32, 32)
    check_images([str(tmp_path / 'x.png')], 1, 32)
