"""Each format, written by hand from the same annotations, is read as what COCO's file says."""

import json
import re
import shutil

import pytest
from PIL import Image

from backbones.errors import DataError
from downstream.data.formats.find import find
from downstream.data.formats.found import counts

from .writers import (
    NAMES,
    link_images,
    targets,
    write_labelme,
    write_voc,
    write_yolo_labels,
)


def write_yaml(folder, **keys) -> None:
    lines = {'names': list(NAMES), 'nc': 3, **keys}
    (folder / 'data.yaml').write_text('\n'.join(f'{k}: {v}' for k, v in lines.items() if v))


def make_yolo(coco, images, folder, polygons=False):
    link_images(coco, images, folder / 'images')
    write_yolo_labels(coco, folder / 'labels', polygons)
    write_yaml(folder, train='images')


# YOLO


@pytest.mark.parametrize('polygons', [False, True])
def test_yolo(singles, images, tmp_path, polygons):
    make_yolo(singles, images, tmp_path, polygons)
    found = find(tmp_path)
    assert (found.format, found.task, found.classes) == ('YOLO', 'detection', NAMES)
    coco = found.parts['all'].coco
    if polygons:
        # A polygon's box is that of its points, one pixel smaller than that of its pixels.
        assert [a[5:] for v in targets(coco, True).values() for a in v[1:]] == [
            a[5:] for v in targets(singles, True).values() for a in v[1:]
        ]
    else:
        assert targets(coco) == targets(singles)
    assert counts(found)['all'].without_mask == (0 if polygons else len(singles['annotations']))
    assert found.parts['all'].root == tmp_path / 'images'


def test_yolo_in_the_ways_of_its_exports(singles, images, tmp_path):
    """data.yaml with parts (Roboflow), folders without it (Label Studio), darknet's list (CVAT)."""
    expected = targets(singles)
    roboflow = tmp_path / 'roboflow'
    for part in ('train', 'valid'):
        link_images(singles, images, roboflow / part / 'images')
        write_yolo_labels(singles, roboflow / part / 'labels', False)
    # Roboflow's paths are relative to a folder that is not there.
    write_yaml(roboflow, train='../train/images', val='../valid/images', test='')
    found = find(roboflow, 'detection')
    assert list(found.parts) == ['train', 'val']
    assert all(targets(part.coco) == expected for part in found.parts.values())
    assert targets(find(roboflow / 'data.yaml').parts['val'].coco) == expected

    plain = tmp_path / 'studio'
    link_images(singles, images, plain / 'images')
    write_yolo_labels(singles, plain / 'labels', False)
    (plain / 'classes.txt').write_text('\n'.join(NAMES))
    assert targets(find(plain).parts['all'].coco) == expected

    # supervision's data.yaml names classes alone.
    (plain / 'classes.txt').rename(plain / 'data.yaml')
    (plain / 'data.yaml').write_text(f'names: [{", ".join(NAMES)}]\nnc: 3\n')
    assert targets(find(plain).parts['all'].coco) == expected

    darknet = tmp_path / 'darknet'
    link_images(singles, images, darknet / 'obj_train_data')
    write_yolo_labels(singles, darknet / 'obj_train_data', False)
    (darknet / 'obj.names').write_text('\n'.join(NAMES))
    names = [f'data/obj_train_data/{image["file_name"]}' for image in singles['images']]
    (darknet / 'train.txt').write_text('\n'.join(names))
    assert targets(find(darknet / 'train.txt').parts['all'].coco) == expected
    assert targets(find(darknet).parts['all'].coco) == expected


def test_yolo_with_the_same_images_for_training_and_validation_is_one_part(
    singles, images, tmp_path
):
    make_yolo(singles, images, tmp_path)
    write_yaml(tmp_path, train='images', val='images')
    found = find(tmp_path)
    assert list(found.parts) == ['all']
    assert 'same images for training and validation' in found.notes[0]


@pytest.mark.parametrize(
    ('line', 'problem'),
    [
        ('3 .5 .5 .1 .1', 'class 3 of 3: it must be 0 to 2'),
        ('0.5 .5 .5 .1 .1', 'class 0.5 of 3'),
        ('0 320 128 20 20', '320 is not between 0 and 1: divide by the size'),
        ('0 .5 .5 .1 .1 .9', 'are these predictions with a confidence'),
        ('0 .5 .5 .1', '3 values follow the class'),
        ('0 .5 .5 .1 .1 .2 .2 .3', '7 values follow the class'),
        ('circle .5 .5 .1 .1', 'a line must be numbers'),
        ('0 .5 .5 -.001 .1', 'a width or height is negative'),
        ('0 nan .5 .1 .1', 'nan is not between 0 and 1'),
    ],
)
def test_a_wrong_line_of_yolo_is_named(singles, images, tmp_path, line, problem):
    make_yolo(singles, images, tmp_path)
    path = next((tmp_path / 'labels').glob('*.txt'))
    path.write_text(f'\n{line}\n')
    with pytest.raises(DataError, match=re.escape(f'{path}:2: ') + '.*' + re.escape(problem)):
        find(tmp_path)


def test_yolo_without_labels_or_images_is_said(singles, images, tmp_path):
    make_yolo(singles, images, tmp_path)
    first, *others = sorted((tmp_path / 'labels').glob('*.txt'))
    first.unlink()
    assert '1 of 4 images have no label file: no objects' in find(tmp_path).notes[0]
    for path in others:
        path.unlink()
    with pytest.raises(DataError, match='none of the 4 images of train has labels'):
        find(tmp_path)
    (tmp_path / 'data.yaml').write_text('names: [a]\ntrain: nowhere\n')
    with pytest.raises(DataError, match="names 'nowhere', which is neither in"):
        find(tmp_path)


# Pascal VOC


def test_voc(singles, images, tmp_path):
    link_images(singles, images, tmp_path / 'JPEGImages')
    write_voc(singles, tmp_path / 'Annotations')
    lists = tmp_path / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    stems = [image['file_name'].removesuffix('.jpg') for image in singles['images']]
    (lists / 'train.txt').write_text('\n'.join(stems[:3]))
    (lists / 'val.txt').write_text(stems[3])
    (lists / 'trainval.txt').write_text('\n'.join(stems))
    found = find(tmp_path)
    assert (found.format, found.classes) == ('Pascal VOC', NAMES)
    assert list(found.parts) == ['train', 'val']
    both = targets(found.parts['train'].coco) | targets(found.parts['val'].coco)
    assert both == targets(singles)
    assert len(found.parts['val'].coco['images']) == 1


def test_flat_voc(singles, images, tmp_path):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path)
    assert targets(find(tmp_path).parts['all'].coco) == targets(singles)


def test_vocs_own_pixels_count_from_one(singles, images, tmp_path):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path, 'The VOC2007 Database', from_one=True)
    found = find(tmp_path)
    assert targets(found.parts['all'].coco) == targets(singles)
    assert 'count from 1' in found.notes[0]


@pytest.mark.parametrize(
    ('old', 'new', 'problem'),
    [
        ('</annotation>', '', 'is no XML or is cut off'),
        (
            '<width>320</width>',
            '<width>321</width>',
            'is 320 x 256 as loaded, but .* says 321 x 256',
        ),
        ('<xmin>', '<xmim>', 'is no XML'),
        ('<width>320</width>', '<width>wide</width>', 'width and height in size are no numbers'),
        (
            '</object>',
            '<polygon><x1>5</x1></polygon></object>',
            'points that are no x and y of numbers',
        ),
        (
            '</object>',
            '<polygon><x1>left</x1><y1>2</y1></polygon></object>',
            'points that are no x and y of numbers',
        ),
        ('<annotation>', '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', 'declares entities'),
        ('<name>', '<nam/><name>', None),
    ],
)
def test_wrong_voc_files_are_named(singles, images, tmp_path, old, new, problem):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path)
    path = sorted(tmp_path.glob('*.xml'))[1]
    path.write_text(path.read_text().replace(old, new))
    if problem is None:
        assert targets(find(tmp_path).parts['all'].coco) == targets(singles)
        return
    with pytest.raises(DataError, match=problem) as error:
        find(tmp_path)
    assert path.name in str(error.value)


def test_voc_without_its_image_is_named(singles, images, tmp_path):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path)
    path = sorted(tmp_path.glob('*.jpg'))[0]
    path.unlink()
    with pytest.raises(DataError, match=f'its image is missing; it is {path.name}'):
        find(tmp_path)


def test_difficult_objects_of_voc_are_crowds(singles, images, tmp_path):
    link_images(singles, images, tmp_path)
    write_voc(singles, tmp_path)
    path = sorted(tmp_path.glob('*.xml'))[0]
    path.write_text(path.read_text().replace('difficult>0', 'difficult>1'))
    found = find(tmp_path)
    count = path.read_text().count('<object>')
    assert counts(found)['all'].crowds == count
    assert f'{count} objects are marked difficult' in found.notes[-1]


# labelme


@pytest.mark.parametrize('kind', ['polygon', 'rectangle', 'mask'])
def test_labelme(singles, images, tmp_path, kind):
    write_labelme(singles, images, tmp_path, kind)
    found = find(tmp_path)
    assert (found.format, found.classes) == ('labelme', NAMES)
    coco = found.parts['all'].coco
    if kind == 'rectangle':
        assert targets(coco) == targets(singles)
    else:  # the boxes are those of the points or pixels that were drawn
        assert [a[5:] for v in targets(coco, True).values() for a in v[1:]] == [
            a[5:] for v in targets(singles, True).values() for a in v[1:]
        ]
    boxes = len(singles['annotations']) if kind == 'rectangle' else 0
    assert counts(found)['all'].without_mask == boxes
    assert found.parts['all'].root == images


def test_shapes_of_a_group_are_one_object(coco, images, tmp_path):
    """Objects in several pieces: the polygons of one group."""
    coco['annotations'] = [one for one in coco['annotations'] if not one['iscrowd']]
    first = coco['annotations'][0]
    x, y, w, h = first['bbox']
    first['segmentation'] = [
        [x, y, x + w, y, x, y + h / 2],
        [x, y + h, x + w, y + h, x + w, y + h / 2],
    ]
    write_labelme(coco, images, tmp_path)
    found = find(tmp_path).parts['all'].coco
    assert len(found['annotations']) == len(coco['annotations'])
    expected = {pixels for rows in targets(coco, True).values() for *_, pixels in rows[1:]}
    assert {pixels for rows in targets(found, True).values() for *_, pixels in rows[1:]} == expected


def test_labelme_leaves_out_what_has_no_area_and_says_so(singles, images, tmp_path):
    write_labelme(singles, images, tmp_path)
    path = sorted(tmp_path.glob('*.json'))[0]
    content = json.loads(path.read_text())
    content['shapes'] += [
        {'label': 'circle', 'shape_type': 'point', 'points': [[3, 3]]},
        {'label': '__ignore__', 'shape_type': 'polygon', 'points': [[3, 3], [9, 9], [3, 9]]},
        {'label': 'circle', 'shape_type': 'polygon', 'points': [[3, 3], [9, 9]]},
    ]
    path.write_text(json.dumps(content))
    found = find(tmp_path)
    assert len(found.parts['all'].coco['annotations']) == len(singles['annotations'])
    assert found.classes == NAMES
    assert [note.partition(' ')[0] for note in found.notes] == ['1', '1', '1']


def test_a_circle_of_labelme_is_round(images, singles, tmp_path):
    singles['annotations'] = []
    write_labelme(singles, images, tmp_path)
    path = sorted(tmp_path.glob('*.json'))[0]
    content = json.loads(path.read_text())
    content['shapes'] = [
        {'label': 'circle', 'shape_type': 'circle', 'points': [[100, 100], [100, 130]]}
    ]
    path.write_text(json.dumps(content))
    (one,) = find(tmp_path).parts['all'].coco['annotations']
    assert one['bbox'] == pytest.approx([70, 70, 60, 60])
    assert one['area'] == pytest.approx(3.14159265 * 900, rel=0.01)


def test_labelme_with_a_shape_that_is_no_object_is_named(singles, images, tmp_path):
    write_labelme(singles, images, tmp_path)
    path = sorted(tmp_path.glob('*.json'))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), 'shapes': [3]}))
    with pytest.raises(DataError, match=rf'{path.name}: shape 0 has no label'):
        find(tmp_path)


def test_labelme_without_its_image_is_named(singles, images, tmp_path):
    write_labelme(singles, images, tmp_path)
    path = sorted(tmp_path.glob('*.json'))[0]
    path.write_text(path.read_text().replace('.jpg', '.png'))
    with pytest.raises(DataError, match=rf'{path.name}: its image .*\.png is missing'):
        find(tmp_path)


# The same real annotations


@pytest.mark.parametrize('form', ['yolo', 'voc', 'labelme', 'coco'])
def test_real_annotations_are_the_same_in_every_format(real, tmp_path, form):
    content, root = real
    if form == 'yolo':
        names = [c['name'] for c in content['categories']]
        link_images(content, root, tmp_path / 'images')
        write_yolo_labels(content, tmp_path / 'labels', False)
        (tmp_path / 'data.yaml').write_text(f'names: {names}\ntrain: images\n')
    elif form == 'voc':
        link_images(content, root, tmp_path)
        write_voc(content, tmp_path)
    elif form == 'labelme':
        write_labelme(content, root, tmp_path, 'mask')
    else:
        link_images(content, root, tmp_path / 'images')
        (tmp_path / 'a.json').write_text(json.dumps(content))
    found = find(tmp_path).parts['all'].coco
    if form == 'labelme':
        # Boxes of pixels: those of COCO are drawn around the points of polygons.
        expected = {p for rows in targets(content, True).values() for *_, p in rows[1:]}
        assert {p for rows in targets(found, True).values() for *_, p in rows[1:]} == expected
    else:
        full = form == 'coco'
        # VOC lists the images that have objects and those that have none alike.
        assert targets(found, full) == targets(content, full)


def test_two_formats_in_one_folder_are_named(singles, images, tmp_path):
    make_yolo(singles, images, tmp_path)
    (tmp_path / 'data.yaml').rename(tmp_path / 'set.yaml')
    (tmp_path / 'instances.json').write_text(json.dumps(singles))
    with pytest.raises(DataError, match=r'COCO and YOLO. Name one with --data: .*set\.yaml'):
        find(tmp_path)
    shutil.rmtree(tmp_path / 'labels')
    with pytest.raises(DataError, match='no annotations were recognised; it has shapes_'):
        find(tmp_path / 'images', 'detection')


def test_boxes_are_relative_to_the_image_as_it_is_shown(tmp_path):
    """An EXIF tag turns an image by 90 degrees when it is loaded, here and in YOLO."""
    image = Image.new('RGB', (40, 30))
    exif = image.getexif()
    exif[274] = 6
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    image.save(tmp_path / 'images' / 'a.jpg', exif=exif)
    (tmp_path / 'labels' / 'a.txt').write_text('0 .5 .5 .2 .4\n')
    (tmp_path / 'classes.txt').write_text('x\n')
    coco = find(tmp_path).parts['all'].coco
    assert (coco['images'][0]['width'], coco['images'][0]['height']) == (30, 40)
    assert coco['annotations'][0]['bbox'] == pytest.approx([12, 12, 6, 16])
