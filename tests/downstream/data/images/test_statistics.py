"""Measured means and standard deviations, compared with numpy's over all pixels at once."""

import numpy as np
import pytest
from mmengine.config import Config

from backbones.errors import DataError
from downstream.data.images import statistics
from downstream.data.images.statistics import RunningMoments, measure
from tests.conftest import write_tiny_config


def test_moments_are_those_of_all_pixels_in_float64():
    generator = np.random.default_rng(0)
    # a small spread on large values: sums of squares in float32, or without the mean, would be wrong
    images = [
        (65000 + generator.normal(0, 0.5, (h, w, 3)) * (1, 2, 3)).astype(np.float32)
        for h, w in ((7, 9), (20, 5), (1, 1))
    ]
    moments = RunningMoments()
    for image in images:
        moments.add(image)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    np.testing.assert_allclose(moments.mean, pixels.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.std, pixels.std(axis=0), rtol=1e-10)


def dataset(task, shapes, tmp_path) -> tuple[dict, str]:
    cfg = Config.fromfile(write_tiny_config(task, shapes, tmp_path))
    return cfg.train_dataloader.dataset, cfg.default_scope


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_the_images_of_a_data_set_are_measured(task, shapes, tmp_path):
    from PIL import Image

    found = measure(*dataset(task, shapes, tmp_path)[:1], LOAD, dataset(task, shapes, tmp_path)[1])
    paths = sorted((shapes / 'images' / 'training').iterdir())
    pixels = np.concatenate([np.asarray(Image.open(p)).reshape(-1, 3) for p in paths])
    # decoders of JPEG differ by a grey level here and there
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), atol=0.1)
    assert (found.images, found.total) == (4, 4)


LOAD = dict(type='LoadBands', bands=(1, 2, 3))


def test_of_many_images_a_sample_and_of_large_ones_some_pixels(shapes, tmp_path, monkeypatch):
    whole = measure(*_arguments(shapes, tmp_path))
    monkeypatch.setattr(statistics, 'IMAGES', 2)
    monkeypatch.setattr(statistics, 'PIXELS', 5000)
    sample = measure(*_arguments(shapes, tmp_path))
    assert (sample.images, sample.total) == (2, 4)
    assert sample.mean != whole.mean
    np.testing.assert_allclose(sample.mean, whole.mean, rtol=0.3)


def _arguments(shapes, tmp_path) -> tuple[dict, dict, str]:
    config, scope = dataset('segmentation', shapes, tmp_path)
    return config, LOAD, scope


def test_a_data_set_inside_another_is_measured(shapes, tmp_path):
    config, load, scope = _arguments(shapes, tmp_path)
    repeated = dict(type='RepeatDataset', times=1, dataset=config)
    assert measure(repeated, load, scope) == measure(config, load, scope)


def test_a_band_of_one_value_is_refused(tmp_path, shapes):
    import cv2

    from downstream.data.images.loading import LoadBands

    for folder in ('images', 'annotations'):
        (tmp_path / folder).mkdir()
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = np.arange(64).reshape(8, 8, 1)
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), pixels)
    cv2.imwrite(str(tmp_path / 'annotations' / 'a.png'), pixels[..., 0] * 0)
    config = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        img_suffix='.png',
        metainfo=dict(classes=('a',), palette=[[0, 0, 0]]),
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
    )
    assert LoadBands((4,))({'img_path': str(tmp_path / 'images' / 'a.png')})['img'].max() == 0
    with pytest.raises(DataError, match='channel 4 has the value 0 in every pixel of 1 images'):
        measure(config, dict(LOAD, bands=(1, 2, 3, 4)), 'mmseg')
