"""Masks in every form, and polygons, are the same pixels."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from backbones.errors import DataError
from downstream.data.files import IGNORED
from downstream.data.formats.find import find
from downstream.data.formats.mask_pixels import to_indices
from downstream.data.formats.write import write

from .writers import link_images, pixels_of, write_labelme, write_voc, write_yolo_labels

CLASSES = ('background', 'circle', 'square', 'triangle')
COLORS = ((0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200))
UNLABELLED = (9, 9, 9)


@pytest.fixture
def truth(shapes, images):
    """Stem -> class indices of the embedded data set, 255 where it says unlabelled."""
    folder = shapes / 'annotations' / 'training'
    masks = {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob('*.png'))}
    return {
        stem: np.where(mask == 0, IGNORED, mask - 1).astype(np.uint8)
        for stem, mask in masks.items()
    }


@pytest.fixture
def make(truth, images, tmp_path):
    """Write a set of images and masks; ``save`` makes an image of a mask."""

    def make(save, image_dir='images', mask_dir='masks', mask_name='{}.png', stems=None):
        source = tmp_path / 'set'
        for stem in stems or truth:
            for folder in (image_dir, mask_dir):
                (source / folder).mkdir(parents=True, exist_ok=True)
            (source / image_dir / f'{stem}.jpg').symlink_to(images / f'{stem}.jpg')
            save(truth[stem]).save(source / mask_dir / mask_name.format(stem))
        return source

    return make


def as_indices(mask):
    return Image.fromarray(mask)


def as_binary(mask):
    return Image.fromarray(np.where((mask > 0) & (mask < IGNORED), 255, 0).astype(np.uint8))


def as_colors(mask):
    table = np.asarray([*COLORS, UNLABELLED], np.uint8)
    return Image.fromarray(table[np.where(mask == IGNORED, 4, mask)])


def loaded(written, part='all'):
    """Stem -> mask, as mmseg loads it with the arguments of a config."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    arguments = dict(written.datasets[part], metainfo=dict(classes=written.classes))
    dataset = BaseSegDataset(**arguments, pipeline=[])
    load = LoadAnnotations()
    result = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        name = info['img_path'].rpartition('/')[2]
        result[name.rpartition('.')[0]] = load(info)['gt_seg_map']
    return result


def same(found, truth, folder):
    got = loaded(write(found, folder), next(iter(found.parts)))
    assert got.keys() == truth.keys()
    for stem, mask in truth.items():
        np.testing.assert_array_equal(got[stem], mask)


def test_index_masks_are_used_as_they_are(make, truth, tmp_path):
    source = make(as_indices)
    (source / 'classes.txt').write_text('\n'.join(CLASSES))
    found = find(source)
    assert (found.format, found.task, found.classes) == ('index masks', 'segmentation', CLASSES)
    same(found, truth, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'masks').exists()


def test_masks_with_an_offset_of_one_are_used_as_they_are(make, truth, tmp_path):
    source = make(lambda mask: Image.fromarray((mask + 1).astype(np.uint8)))
    table = [{'name': name, 'value': k + 1} for k, name in enumerate(CLASSES)]
    (source / 'classes.json').write_text(json.dumps(table))
    found = find(source)
    assert 'value 0 is unlabelled' in found.notes[0]
    written = write(found, tmp_path / 'out')
    assert written.datasets['all']['reduce_zero_label'] is True
    same(found, truth, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'masks').exists()


def test_binary_masks(make, truth, tmp_path):
    source = make(as_binary)
    found = find(source)
    assert (found.format, found.classes) == ('binary masks', ('background', 'foreground'))
    expected = {
        stem: ((mask > 0) & (mask < IGNORED)).astype(np.uint8) for stem, mask in truth.items()
    }
    same(found, expected, tmp_path / 'out')
    (source / 'classes.txt').write_text('crack')
    assert find(source).classes == ('background', 'crack')
    (source / 'classes.txt').write_text('\n'.join(CLASSES))
    with pytest.raises(DataError, match=r'0 and 255 alone, .*classes\.txt names 4 classes'):
        find(source)


def test_binary_masks_that_were_compressed(make, truth, tmp_path):
    source = make(as_binary, mask_name='{}_mask.jpg')
    found = find(source)
    assert found.format == 'binary masks'
    assert 'below 128 is background, from 128 foreground' in found.notes[0]
    got = loaded(write(found, tmp_path / 'out'))
    for stem, mask in truth.items():
        wrong = got[stem] != ((mask > 0) & (mask < IGNORED))
        assert wrong.mean() < 0.01


@pytest.mark.parametrize(
    ('file', 'line'),
    [
        ('classes.csv', '{name},{r},{g},{b}'),
        ('class_dict.csv', '{r},{g},{b},{name}'),
        ('labelmap.txt', '{name}:{r},{g},{b}::'),
        ('label_colors.txt', '{r} {g} {b}\t{name}'),
        ('classes.txt', '{name} {r} {g} {b}'),
    ],
)
def test_colour_masks(make, truth, tmp_path, file, line):
    source = make(as_colors)
    rows = zip((*CLASSES, 'void'), (*COLORS, UNLABELLED))
    lines = [line.format(name=name, r=r, g=g, b=b) for name, (r, g, b) in rows]
    header = ['name,r,g,b'] if file == 'class_dict.csv' else []
    (source / file).write_text('\n'.join([*header, *lines]))
    found = find(source)
    assert (found.format, found.classes) == ('colour masks', CLASSES)
    same(found, truth, tmp_path / 'out')


def test_a_labelmap_without_colours_has_those_of_voc(make, truth, tmp_path):
    """As datumaro writes it; the colours are those of VOC's devkit for classes 0 to 3."""
    table = np.asarray(
        [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (224, 224, 192)], np.uint8
    )
    source = make(lambda mask: Image.fromarray(table[np.where(mask == IGNORED, 4, mask)]))
    (source / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\nbackground:::\n')
    with open(source / 'labelmap.txt', 'a') as file:
        file.write('\n'.join(f'{name}:::' for name in CLASSES[1:]))
    same(find(source), truth, tmp_path / 'out')


def test_colours_in_a_palette(make, truth, tmp_path):
    def as_palette(mask):
        order = np.asarray([3, 1, 4, 0, 2])  # of each file its own, as in other tools
        indices = order[np.where(mask == IGNORED, 4, mask)].astype(np.uint8)
        image = Image.frombytes('P', mask.shape[::-1], indices.tobytes())
        palette = np.zeros((256, 3), np.uint8)
        palette[order] = [*COLORS, UNLABELLED]
        image.putpalette(palette.flatten().tolist())
        return image

    source = make(as_palette)
    table = {name: list(color) for name, color in zip((*CLASSES, 'ignore'), (*COLORS, UNLABELLED))}
    (source / 'labels.json').write_text(json.dumps(table))
    same(find(source), truth, tmp_path / 'out')


@pytest.mark.parametrize(
    ('save', 'table', 'message'),
    [
        (as_colors, None, 'masks are coloured .* write .*classes.csv with the lines `name,r,g,b`'),
        (as_colors, 'a\nb\nc', 'masks are coloured'),
        (as_colors, 'a 0 0 0\nb 200 30 30', r'pixels of the colour \(.*\), which no class has'),
        (as_indices, 'a\nb\nc', 'If 0 is a class, name it in the first line'),
        (as_indices, 'a\nb', 'has the value 2 in .* pixels, but .* names 2 classes'),
        (
            lambda mask: Image.fromarray(np.where(mask < 9, mask * 80, 255).astype(np.uint8)),
            None,
            'masks have the values 0, 80, 160, 240, and no file says',
        ),
    ],
)
def test_masks_that_nothing_explains(make, save, table, message):
    source = make(save)
    if table:
        (source / 'classes.txt').write_text(table)
    with pytest.raises(DataError, match=message):
        find(source)


def test_masks_without_names_of_classes(make, truth, tmp_path):
    found = find(make(as_indices))
    assert found.classes == ('class_0', 'class_1', 'class_2', 'class_3')
    assert 'no file names the classes' in found.notes[0]
    same(found, truth, tmp_path / 'out')


@pytest.mark.parametrize(
    ('image_dir', 'mask_dir', 'mask_name'),
    [
        ('img_dir/train', 'ann_dir/train', '{}.png'),
        ('train/images', 'train/masks', '{}.png'),
        ('train', 'trainannot', '{}.png'),
        ('train', 'train_masks', '{}_mask.png'),
        ('train', 'train', '{}_mask.png'),
        ('train', 'train', '{}.png'),
        ('JPEGImages/train', 'SegmentationClass/train', '{}.png'),
        ('train/imgs', 'train/labels', 'label_{}.png'),
    ],
)
def test_where_masks_may_be(make, truth, tmp_path, image_dir, mask_dir, mask_name):
    source = make(as_indices, image_dir, mask_dir, mask_name)
    (source / 'classes.txt').write_text('\n'.join(CLASSES))
    found = find(source)
    assert list(found.parts) == ['all']
    same(found, truth, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'masks').exists() or mask_name.startswith('label_')


def test_parts_and_files_that_do_not_pair(make, truth, images):
    stems = list(truth)
    source = make(as_indices, 'images/train', 'masks/train', stems=stems[:3])
    make(as_indices, 'images/val', 'masks/val', stems=stems[3:])
    found = find(source)
    assert {name: len(part.pairs) for name, part in found.parts.items()} == {'train': 3, 'val': 1}
    (source / 'masks' / 'train' / f'{stems[0]}.png').unlink()
    with pytest.raises(
        DataError, match=f'1 of 4 images .* have no mask, the first: .*{stems[0]}.jpg'
    ):
        find(source)


def test_several_masks_of_an_image_are_refused(make):
    source = make(as_indices)
    shutil.copytree(source / 'masks', source / 'labels')
    with pytest.raises(DataError, match='are masks of the same name'):
        find(source)


def test_cityscapes_layout(truth, images, tmp_path):
    for part, stems in (('train', list(truth)[:3]), ('val', list(truth)[3:])):
        for stem in stems:
            image = tmp_path / 'leftImg8bit' / part / 'bonn' / f'{stem}_leftImg8bit.png'
            label = tmp_path / 'gtFine' / part / 'bonn' / f'{stem}_gtFine_labelIds.png'
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(images / f'{stem}.jpg').save(image)
            ids = np.asarray([7, 8, 11, 12, *[0] * 252], np.uint8)  # road, sidewalk, building, wall
            Image.fromarray(ids[truth[stem]]).save(label)
            Image.fromarray(truth[stem]).save(str(label).replace('labelIds', 'instanceIds'))
    found = find(tmp_path)
    assert (found.format, len(found.classes), list(found.parts)) == (
        'Cityscapes',
        19,
        ['train', 'val'],
    )
    written = write(found, tmp_path / 'out')
    for part in ('train', 'val'):
        for name, mask in loaded(written, part).items():
            np.testing.assert_array_equal(mask, truth[name.removesuffix('_leftImg8bit')])
    for path in (tmp_path / 'gtFine').rglob('*labelIds.png'):
        stem = path.name.removesuffix('_gtFine_labelIds.png')
        Image.fromarray(truth[stem]).save(str(path).replace('labelIds', 'labelTrainIds'))
    written = write(find(tmp_path), tmp_path / 'ready')
    assert not (tmp_path / 'ready' / 'masks').exists()
    for name, mask in loaded(written, 'train').items():
        np.testing.assert_array_equal(mask, truth[name.removesuffix('_leftImg8bit')])


# Polygons


def drawn(coco):
    """Masks of COCO annotations, drawn pixel for pixel: crowds, then large to small."""
    result = {}
    for image in coco['images']:
        mask = np.zeros((image['height'], image['width']), np.uint8)
        objects = [one for one in coco['annotations'] if one['image_id'] == image['id']]
        for one in sorted(objects, key=lambda one: (-one['iscrowd'], -one['area'])):
            mask[pixels_of(one, image)] = one['category_id']
        result[image['file_name'].removesuffix('.jpg')] = mask
    return result


def test_coco_polygons_as_masks(coco, images, tmp_path):
    link_images(coco, images, tmp_path / 'images')
    (tmp_path / 'a.json').write_text(json.dumps(coco))
    found = find(tmp_path, 'segmentation')
    assert (found.format, found.classes) == ('COCO', CLASSES)
    assert 'a pixel without an object is background' in found.notes[-1]
    same(found, drawn(coco), tmp_path / 'out')


@pytest.mark.parametrize('form', ['YOLO', 'labelme'])
def test_other_polygons_as_masks(singles, images, tmp_path, form):
    source = tmp_path / 'set'
    if form == 'YOLO':
        link_images(singles, images, source / 'images')
        write_yolo_labels(singles, source / 'labels', polygons=True)
        (source / 'classes.txt').write_text('\n'.join(CLASSES[1:]))
    else:
        write_labelme(singles, images, source)
    # Areas of polygons decide the order, as there are none in these files.
    for one in singles['annotations']:
        x, y = np.reshape(one['segmentation'][0], (-1, 2)).T
        one['area'] = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    same(find(source, 'segmentation'), drawn(singles), tmp_path / 'out')


def test_boxes_are_no_masks(singles, images, tmp_path):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path)
    count = len(singles['annotations'])
    with pytest.raises(DataError, match=f'{count} of {count} objects have a box alone'):
        find(tmp_path, 'segmentation')


def test_masks_go_before_polygons(shapes, coco):
    """The embedded data set has both; the task decides, and must be given."""
    found = find(shapes, 'segmentation')
    assert found.format == 'index masks'
    assert 'not the annotations of objects: COCO' in found.notes[-1]
    assert find(shapes, 'detection').classes == CLASSES[1:]
    with pytest.raises(
        DataError, match='COCO for detection and masks for segmentation; name the task'
    ):
        find(shapes)


def test_a_value_that_no_class_has_is_found_when_masks_are_written(make, truth, tmp_path):
    source = make(as_colors)
    rows = zip((*CLASSES, 'void'), (*COLORS, UNLABELLED))
    (source / 'classes.txt').write_text('\n'.join(f'{n} {r} {g} {b}' for n, (r, g, b) in rows))
    found = find(source)
    path = source / 'masks' / f'{next(iter(truth))}.png'
    mask = np.array(Image.open(path))
    mask[5, 5] = (1, 2, 3)
    Image.fromarray(mask).save(path)
    with pytest.raises(DataError, match=re.escape(f'{path} has pixels of the colour (1, 2, 3)')):
        write(found, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'all.txt').exists()


def test_a_mask_of_another_size_is_found_when_masks_are_written(make, truth, tmp_path):
    source = make(as_binary)
    path = source / 'masks' / f'{next(iter(truth))}.png'
    Image.open(path).resize((160, 128), Image.Resampling.NEAREST).save(path)
    with pytest.raises(DataError, match=r'is 160 x 128, but .* is 320 x 256'):
        write(find(source), tmp_path / 'out')


@pytest.mark.parametrize('bits', [16, 32])
def test_masks_of_more_than_8_bits(truth, tmp_path, bits):
    mask = next(iter(truth.values()))
    path = tmp_path / {16: 'mask.png', 32: 'mask.tif'}[bits]
    Image.fromarray(mask.astype({16: np.uint16, 32: np.int32}[bits])).save(path)
    values = {k: k for k in range(4)}
    np.testing.assert_array_equal(to_indices(path, values), mask)
