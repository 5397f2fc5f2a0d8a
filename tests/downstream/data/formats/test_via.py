"""VIA's own JSON files, written by hand from COCO annotations, are read as what COCO's file says."""

import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import DataError
from downstream.commands.formats import convert
from downstream.data.formats.find import find
from downstream.data.formats.found import counts

from .writers import NAMES, link_images, pixels_of, targets, write_via


@pytest.mark.parametrize('form', ['project', 'annotations', '1'])
@pytest.mark.parametrize('shape', ['polygon', 'rect'])
def test_regions_are_the_objects(singles, images, tmp_path, form, shape):
    link_images(singles, images, tmp_path)
    write_via(singles, tmp_path / 'via_region_data.json', shape, form)
    found = find(tmp_path)
    assert (found.format, found.task) == ('VIA', 'detection')
    assert sorted(found.classes) == sorted(NAMES)
    coco = found.parts['all'].coco
    if shape == 'rect':
        assert targets(coco) == targets(singles)
        assert counts(found)['all'].without_mask == len(singles['annotations'])
    else:  # the box of a polygon is that of its points, one pixel smaller than that of its pixels
        assert [row[:1] + row[5:] for v in targets(coco, True).values() for row in v[1:]] == [
            row[:1] + row[5:] for v in targets(singles, True).values() for row in v[1:]
        ]
    if form == 'project':
        assert found.classes == NAMES  # in the order of the project's options


def test_parts_are_named_by_folders_and_images_are_found(singles, images, tmp_path):
    """As the data set of balloons is laid out, and with the images in a folder of their own."""
    link_images(singles, images, tmp_path / 'train')
    write_via(singles, tmp_path / 'train' / 'via_region_data.json', form='1')
    link_images(singles, images, tmp_path / 'val' / 'images')
    write_via(singles, tmp_path / 'val' / 'via_region_data.json')
    found = find(tmp_path)
    assert list(found.parts) == ['train', 'val']
    assert targets(found.parts['train'].coco, True) == targets(found.parts['val'].coco, True)
    assert found.parts['val'].root == tmp_path / 'val' / 'images'
    (tmp_path / 'train').rename(tmp_path / 'first')
    with pytest.raises(DataError, match='2 files of VIA, and it is not clear which is training'):
        find(tmp_path)


def one_region(folder, shape: dict, attributes: object = None, **more) -> None:
    Image.new('RGB', (200, 100)).save(folder / 'a.png')
    region = {'shape_attributes': shape, 'region_attributes': attributes or {}}
    entry = {'filename': 'a.png', 'size': 1, 'regions': [region], 'file_attributes': {}, **more}
    (folder / 'via.json').write_text(json.dumps({'a.png1': entry}))


@pytest.mark.parametrize('angle', [None, 0.0, 0.5, -1.2])
def test_circles_and_ellipses_are_what_opencv_draws(tmp_path, angle):
    shape = {'name': 'ellipse', 'cx': 100, 'cy': 50, 'rx': 60, 'ry': 20, 'theta': angle}
    if angle is None:
        shape = {'name': 'circle', 'cx': 100, 'cy': 50, 'r': 30}
    one_region(tmp_path, shape)
    coco = find(tmp_path).parts['all'].coco
    (annotation,) = coco['annotations']
    found = pixels_of(annotation, coco['images'][0])
    wanted = np.zeros((100, 200), np.uint8)
    radii = (shape.get('rx', 30), shape.get('ry', 30))
    cv2.ellipse(wanted, (100, 50), radii, np.degrees(angle or 0), 0, 360, 1, -1)
    union = (found | (wanted > 0)).sum()
    assert (found & (wanted > 0)).sum() / union > 0.95
    assert annotation['area'] == pytest.approx(np.pi * radii[0] * radii[1], rel=0.01)


def test_what_has_no_area_is_left_out_and_said(tmp_path):
    line = {'name': 'polyline', 'all_points_x': [10, 90, 90], 'all_points_y': [10, 10, 60]}
    one_region(tmp_path, line)
    content = json.loads((tmp_path / 'via.json').read_text())
    regions = content['a.png1']['regions']
    closed = {key: [*value, value[0]] for key, value in line.items() if key != 'name'}
    for shape in ({'name': 'point', 'cx': 5, 'cy': 5}, {'name': 'polyline', **closed}):
        regions.append({'shape_attributes': shape, 'region_attributes': {}})
    (tmp_path / 'via.json').write_text(json.dumps(content))
    found = find(tmp_path)
    (annotation,) = found.parts['all'].coco['annotations']
    assert annotation['area'] == 80 * 50 / 2
    notes = ' '.join(found.notes)
    assert '1 regions are left out: a point has no area' in notes
    assert '1 regions are left out: an open polyline' in notes
    assert 'all are of one class, object' in notes


RECT = {'name': 'rect', 'x': 10, 'y': 10, 'width': 50, 'height': 40}


@pytest.mark.parametrize(
    ('attributes', 'name'),
    [
        ({'type': 'cat'}, 'cat'),
        ({'animal': {'cat': True, 'dog': False}}, 'cat'),
        ({'class': 'cat', 'occluded': 'no'}, 'cat'),
        ({'Name': ' cat ', 'id': 7}, 'cat'),
        ({}, 'object'),
    ],
)
def test_the_attribute_that_is_the_class(tmp_path, attributes, name):
    one_region(tmp_path, RECT, attributes)
    found = find(tmp_path)
    assert found.classes == (name,)
    assert found.parts['all'].coco['annotations'][0]['bbox'] == [10, 10, 50, 40]


def test_numbered_options_are_named_by_their_description(tmp_path):
    one_region(tmp_path, RECT, {'kind': '2'})
    images = json.loads((tmp_path / 'via.json').read_text())
    options = {'1': 'dog', '2': 'cat'}
    about = {'region': {'kind': {'type': 'dropdown', 'options': options}}, 'file': {}}
    content = {'_via_settings': {}, '_via_img_metadata': images, '_via_attributes': about}
    (tmp_path / 'via.json').write_text(json.dumps(content))
    found = find(tmp_path)
    assert found.classes == ('dog', 'cat')
    assert found.parts['all'].coco['annotations'][0]['category_id'] == 2


@pytest.mark.parametrize(
    ('shape', 'attributes', 'words'),
    [
        (
            RECT,
            {'colour': 'red', 'size': 'big'},
            'not clear which is the class; rename it to class',
        ),
        (RECT, {'class': {'a': True, 'b': True}}, 'has several values of class: a, b'),
        ({**RECT, 'width': '50'}, None, "region 0 of a.png is a rect whose .*'50'.* no numbers"),
        ({**RECT, 'width': -5}, None, 'region 0 of a.png has a negative width'),
        ({'name': 'polygon', 'all_points_x': [1, 2], 'all_points_y': [1, 2]}, None, 'of 2 points'),
        ({'name': 'polygon', 'all_points_x': [1, 2, 3]}, None, 'no pairs of numbers'),
        ({'name': 'star'}, None, "has the shape 'star', which is not known"),
        ({'name': ['rect']}, None, 'which is not known'),
        ({'name': 'ellipse', 'cx': 1, 'cy': 1, 'rx': 1, 'ry': 1, 'theta': 'x'}, None, "theta 'x'"),
    ],
)
def test_a_wrong_region_is_named(tmp_path, shape, attributes, words):
    one_region(tmp_path, shape, attributes)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / 'via.json')) + f'.*{words}'):
        find(tmp_path)


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ({'filename': 3}, "entry 'a.png1' has no filename"),
        ({'regions': [{'region_attributes': {}}]}, 'region 0 of a.png has no shape'),
        ({'regions': 'all'}, 'a.png has regions that are no list'),
        ({'filename': 'b.png'}, '1 of 1 images of .* are missing'),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, words):
    folder = tmp_path / 'above' / 'set'  # images are looked for beside the folder as well
    folder.mkdir(parents=True)
    one_region(folder, RECT, **entry)
    with pytest.raises(DataError, match=words):
        find(folder)


def test_a_region_without_the_class_of_the_others_is_refused(tmp_path):
    one_region(tmp_path, RECT, {'type': 'cat'})
    content = json.loads((tmp_path / 'via.json').read_text())
    content['a.png1']['regions'].append({'shape_attributes': RECT, 'region_attributes': {}})
    (tmp_path / 'via.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'region 1 of a.png has no value of type, its class'):
        find(tmp_path)


def test_it_is_converted(singles, images, tmp_path, capsys):
    source = tmp_path / 'via'
    link_images(singles, images, source)
    write_via(singles, source / 'project.json')
    convert(source, tmp_path / 'coco', 'coco')
    assert 'VIA, detection, 3 classes' in capsys.readouterr().out
    found = find(tmp_path / 'coco')
    assert found.format == 'COCO'
    assert targets(found.parts['all'].coco, True) == targets(find(source).parts['all'].coco, True)
