"""Round trips: what is written in a format is read again as the same objects."""

import json

import numpy as np
import pytest
from PIL import Image

from backbones.errors import ConfigError, DataError
from downstream.data.formats.convert import convert
from downstream.data.formats.find import find
from downstream.data.formats.split import take

from .writers import link_images, pixels_of, targets, write_voc


@pytest.fixture
def found(singles, images, tmp_path):
    """Shapes in two parts."""
    link_images(singles, images, tmp_path / 'set' / 'images')
    (tmp_path / 'set' / 'a.json').write_text(json.dumps(singles))
    whole = find(tmp_path / 'set')
    chosen = np.asarray([True, False, False, False])
    parts = {'train': take(whole.parts['all'], ~chosen), 'val': take(whole.parts['all'], chosen)}
    return type(whole)(whole.format, whole.task, whole.classes, parts)


def all_pixels(coco):
    """Image -> the masks of its objects as they lie in the file."""
    result = {}
    for image in coco['images']:
        objects = [one for one in coco['annotations'] if one['image_id'] == image['id']]
        stem = image['file_name'].rpartition('/')[2].rpartition('.')[0]
        result[stem] = sorted(pixels_of(one, image).tobytes() for one in objects)
    return result


@pytest.mark.parametrize('form', ['coco', 'yolo', 'voc', 'labelme'])
def test_there_and_back(found, tmp_path, form):
    notes = convert(found, tmp_path / 'out', form)
    back = find(tmp_path / 'out')
    assert back.classes == found.classes
    assert sorted(back.parts) == ['train', 'val']
    for name, part in found.parts.items():
        if form == 'voc':
            assert 'masks are left out: VOC has boxes' in notes[0]
            assert targets(back.parts[name].coco) == targets(part.coco)
        else:
            assert notes == []
            assert all_pixels(back.parts[name].coco) == all_pixels(part.coco)
        for image in back.parts[name].coco['images']:
            assert (back.parts[name].root / image['file_name']).is_symlink()


@pytest.mark.parametrize('form', ['yolo', 'voc', 'labelme'])
def test_boxes_there_and_back(singles, images, tmp_path, form):
    for one in singles['annotations']:
        one['segmentation'] = []
    link_images(singles, images, tmp_path / 'set')
    write_voc(singles, tmp_path / 'set')
    convert(find(tmp_path / 'set'), tmp_path / 'out', form, copy=True)
    back = find(tmp_path / 'out').parts['all']
    assert targets(back.coco) == targets(singles)
    assert not any((back.root / i['file_name']).is_symlink() for i in back.coco['images'])


def test_crowds_and_run_lengths(coco, images, tmp_path):
    """COCO and labelme hold masks as they are; YOLO has no crowds; VOC calls them difficult."""
    link_images(coco, images, tmp_path / 'set' / 'images')
    crowds = [one for one in coco['annotations'] if one['iscrowd']]
    (tmp_path / 'set' / 'a.json').write_text(json.dumps(coco))
    whole = find(tmp_path / 'set')
    assert convert(whole, tmp_path / 'coco', 'coco') == []
    assert targets(find(tmp_path / 'coco').parts['all'].coco, True) == targets(coco, True)
    for form in ('yolo', 'labelme'):
        notes = convert(whole, tmp_path / form, form)
        assert f'{len(crowds)} crowds are left out' in notes[0]
        assert len(find(tmp_path / form).parts['all'].coco['annotations']) == len(
            coco['annotations']
        ) - len(crowds)
    convert(whole, tmp_path / 'voc', 'voc')
    back = find(tmp_path / 'voc').parts['all'].coco
    assert sum(one['iscrowd'] for one in back['annotations']) == len(crowds)

    # A run-length code of a single object is a bitmap in labelme.
    for one in crowds:
        one['iscrowd'] = 0
    (tmp_path / 'set' / 'a.json').write_text(json.dumps(coco))
    convert(find(tmp_path / 'set'), tmp_path / 'bitmap', 'labelme')
    assert all_pixels(find(tmp_path / 'bitmap').parts['all'].coco) == all_pixels(coco)


def test_an_object_in_pieces_is_one_polygon_of_yolo(singles, images, tmp_path):
    first = singles['annotations'][0]
    first['segmentation'] = [[10, 10, 60, 10, 60, 60, 10, 60], [100, 100, 150, 100, 150, 150]]
    first.update(bbox=[10, 10, 140, 140], area=3000)
    link_images(singles, images, tmp_path / 'set' / 'images')
    (tmp_path / 'set' / 'a.json').write_text(json.dumps(singles))
    convert(find(tmp_path / 'set'), tmp_path / 'out', 'yolo')
    back = find(tmp_path / 'out').parts['all'].coco
    assert len(back['annotations']) == len(singles['annotations'])
    image = singles['images'][0]
    expected = pixels_of(first, image)
    got = pixels_of(back['annotations'][0], image)
    # The seam has no width; pycocotools draws a line of a pixel.
    assert (got & expected).sum() / expected.sum() > 0.99
    assert (got ^ expected).sum() < 120


def test_masks_there_and_back(singles, images, tmp_path):
    """Polygons and colours become class indices."""
    link_images(singles, images, tmp_path / 'set' / 'images')
    (tmp_path / 'set' / 'a.json').write_text(json.dumps(singles))
    convert(find(tmp_path / 'set', 'segmentation'), tmp_path / 'out', 'masks')
    back = find(tmp_path / 'out')
    assert (back.format, back.classes[0]) == ('index masks', 'background')
    colors = np.asarray([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    coloured = tmp_path / 'coloured'
    (coloured / 'masks').mkdir(parents=True)
    (coloured / 'images').symlink_to(tmp_path / 'out' / 'images')
    lines = [f'{n},{r},{g},{b}\n' for n, (r, g, b) in zip(back.classes, colors.tolist())]
    (coloured / 'classes.csv').write_text(''.join(lines))
    for path in (tmp_path / 'out' / 'masks').iterdir():
        Image.fromarray(colors[np.asarray(Image.open(path))]).save(coloured / 'masks' / path.name)
    convert(find(coloured), tmp_path / 'again', 'masks')
    for path in (tmp_path / 'out' / 'masks').iterdir():
        again = np.asarray(Image.open(tmp_path / 'again' / 'masks' / path.name))
        np.testing.assert_array_equal(again, np.asarray(Image.open(path)))


def test_what_cannot_be_converted(found, tmp_path):
    with pytest.raises(ConfigError, match="'kitti' is no format to write; known are coco, yolo"):
        convert(found, tmp_path / 'out', 'kitti')
    with pytest.raises(
        ConfigError, match='masks is for segmentation, but the set is for detection'
    ):
        convert(found, tmp_path / 'out', 'masks')
    with pytest.raises(DataError, match='exists; name a new folder'):
        convert(found, tmp_path / 'set', 'coco')
    (tmp_path / 'set' / 'images' / found.parts['val'].coco['images'][0]['file_name']).unlink()
    with pytest.raises(FileNotFoundError):
        convert(found, tmp_path / 'copied', 'voc', copy=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['set']
