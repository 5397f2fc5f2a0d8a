"""What the check before training says of bands, bit depths and orientations."""

import json
import shutil

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from backbones.errors import DataError
from downstream.data.checks import bands
from downstream.data.checks.datasets import check_datasets
from downstream.running.options.channels import use_bands
from tests.conftest import write_tiny_config

tifffile = pytest.importorskip('tifffile')
TASKS = ['detection', 'segmentation']


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(bands, 'print_log', lambda message, logger: messages.append(message))
    return messages


def replaced(task, shapes, tmp_path, write, suffix) -> Config:
    """The config of the embedded data whose first training image ``write(path, pixels)`` wrote anew."""
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    old = data / 'images' / 'training' / 'shapes_training_0000.jpg'
    pixels = cv2.imread(str(old))[..., ::-1]
    old.unlink()
    write(old.with_suffix(suffix), pixels)
    path = data / 'annotations' / 'instances_training.json'
    content = json.loads(path.read_text())
    content['images'][0]['file_name'] = f'shapes_training_0000{suffix}'
    path.write_text(json.dumps(content))
    cfg = Config.fromfile(write_tiny_config(task, data, tmp_path))
    if task == 'segmentation':
        names = data / 'only.txt'
        names.write_text('shapes_training_0000')
        cfg.train_dataloader.dataset.update(ann_file='only.txt', img_suffix=suffix)
    return cfg


def deep(path, pixels) -> None:
    cv2.imwrite(str(path), pixels[..., ::-1].astype(np.uint16) * 257)


@pytest.mark.parametrize('task', TASKS)
def test_the_loss_of_16_bits_is_said_once(task, shapes, tmp_path, logged):
    cfg = replaced(task, shapes, tmp_path, deep, '.png')
    check_datasets(cfg, ('train',))
    (line,) = logged
    assert (
        f'1 of the {4 if task == "detection" else 1} images that were opened have 16 bits' in line
    )
    assert '--bands 1 2 3 keeps all of them' in line
    cfg.bands = (1, 2, 3)
    logged.clear()
    use_bands(cfg)
    check_datasets(cfg, ('train',))
    # 8-bit images beside one of 16 bits
    assert [('differ in their values' in line) for line in logged] == [True] * (task == 'detection')


def test_a_lost_alpha_channel_is_said(shapes, tmp_path, logged):
    def write(path, pixels):
        Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(path)

    check_datasets(replaced('segmentation', shapes, tmp_path, write, '.png'), ('train',))
    (line,) = logged
    assert '1 of the 1 images that were opened have an alpha channel' in line


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize(
    ('name', 'dtype', 'words'),
    [
        ('a.tif', 'uint16', r'has 7 bands, and the pipeline loads R, G and B: .*--bands 1 2 3'),
        ('a.npy', 'float32', r'has 7 bands'),
    ],
)
def test_many_bands_are_refused_unless_they_are_chosen(task, name, dtype, words, shapes, tmp_path):
    def write(path, pixels):
        values = np.concatenate([pixels] * 2 + [pixels[..., :1]], axis=2).astype(dtype)
        if path.suffix == '.npy':
            np.save(path, values)
        else:
            tifffile.imwrite(path, values, photometric='minisblack', planarconfig='contig')

    suffix = '.' + name.partition('.')[2]
    cfg = replaced(task, shapes, tmp_path, write, suffix)
    with pytest.raises(DataError, match=rf'shapes_training_0000{suffix} {words}'):
        check_datasets(cfg, ('train',))
    if task == 'segmentation':
        for bands, wrong in (((1, 7), None), ((1, 8), 'has 7 bands; bands 1, 8 are to be read')):
            cfg.bands = bands
            cfg.train_dataloader.dataset.pipeline[0] = dict(type='LoadBands', bands=bands)
            if wrong is None:
                check_datasets(cfg, ('train',))
            else:
                with pytest.raises(DataError, match=wrong):
                    check_datasets(cfg, ('train',))


def test_float_values_are_refused_unless_bands_are_chosen(shapes, tmp_path):
    def write(path, pixels):
        tifffile.imwrite(path, (pixels / 255).astype(np.float32), photometric='rgb')

    cfg = replaced('segmentation', shapes, tmp_path, write, '.tif')
    with pytest.raises(DataError, match=r'has values of float32, .*--bands 1 2 3'):
        check_datasets(cfg, ('train',))


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('suffix', ['.jpg', '.webp'])
def test_annotations_are_compared_with_the_image_as_it_is_shown(task, suffix, shapes, tmp_path):
    def turned(path, pixels):
        """Stored on its side; the tag brings it back."""
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(np.rot90(pixels)).save(path, exif=exif)

    check_datasets(replaced(task, shapes, tmp_path, turned, suffix), ('train',))

    def stored(path, pixels):
        """As annotated, but shown on its side."""
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)

    cfg = replaced(task, shapes, tmp_path / 'b', stored, suffix)
    with pytest.raises(DataError, match=r'256 x 320.* EXIF tag turns it by 90 degrees'):
        check_datasets(cfg, ('train',))


def test_a_mask_is_not_turned_by_an_exif_tag_of_its_own(tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(mask).save(tmp_path / 'a.png', exif=exif)
    results = {
        'seg_map_path': str(tmp_path / 'a.png'),
        'seg_fields': [],
        'reduce_zero_label': False,
    }
    assert np.array_equal(LoadAnnotations()(results)['gt_seg_map'], mask)
