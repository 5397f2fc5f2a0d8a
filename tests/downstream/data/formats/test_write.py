"""What is written beside the images is what mmdet loads: the same targets as the original."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from downstream.data.formats.find import find
from downstream.data.formats.write import write, write_coco

from .writers import link_images, write_labelme, write_voc, write_yolo_labels


def loaded(arguments: dict, classes: tuple[str, ...], masks: bool) -> dict[str, tuple]:
    """Image -> labels, boxes and masks as mmdet's pipeline gives them, in an order of their own."""
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    ]
    dataset = CocoDataset(**arguments, metainfo=dict(classes=classes), pipeline=steps)
    result = {}
    for i in range(len(dataset)):
        info = dataset[i]
        boxes, labels = info['gt_bboxes'].tensor.numpy(), info['gt_bboxes_labels']
        order = np.lexsort((*boxes.T, labels))
        pixels = info['gt_masks'].masks if masks else np.zeros((len(boxes), 0))
        name = info['img_path'].rpartition('/')[2]
        result[name] = labels[order], boxes[order], pixels[order]
    return result


def original(coco, images, tmp_path, masks):
    (tmp_path / 'original.json').write_text(json.dumps(coco))
    arguments = dict(ann_file=str(tmp_path / 'original.json'), data_prefix=dict(img=f'{images}/'))
    return loaded(arguments, tuple(c['name'] for c in coco['categories']), masks)


def same(got, expected, tolerance=1e-4):
    assert got.keys() == expected.keys()
    for name, (labels, boxes, masks) in expected.items():
        np.testing.assert_array_equal(got[name][0], labels)
        np.testing.assert_allclose(got[name][1], boxes, atol=tolerance)
        np.testing.assert_array_equal(got[name][2], masks)


@pytest.mark.parametrize('source', ['shapes', 'real'])
@pytest.mark.parametrize('form', ['COCO', 'YOLO', 'Pascal VOC', 'labelme'])
def test_targets_in_training(source, form, singles, images, tmp_path, request):
    coco, root = (singles, images) if source == 'shapes' else request.getfixturevalue('real')
    folder = tmp_path / 'set'
    masks = form == 'COCO'
    if form == 'YOLO':
        link_images(coco, root, folder / 'images')
        write_yolo_labels(coco, folder / 'labels', polygons=False)
        names = [c['name'] for c in coco['categories']]
        (folder / 'classes.txt').write_text('\n'.join(names))
    elif form == 'Pascal VOC':
        link_images(coco, root, folder)
        write_voc(coco, folder)
        # Its classes are in alphabetical order.
        coco = {**coco, 'categories': sorted(coco['categories'], key=lambda c: c['name'])}
    elif form == 'labelme':
        write_labelme(coco, root, folder, 'rectangle')
        coco = {**coco, 'categories': sorted(coco['categories'], key=lambda c: c['name'])}
    else:
        link_images(coco, root, folder / 'images')
        for one in coco['annotations'][::2]:
            one['id'] = 0  # a repair, so that a file is written
        (folder / 'a.json').write_text(json.dumps(coco))
        for number, one in enumerate(coco['annotations'], 1):
            one['id'] = number
    found = find(folder, 'detection')
    assert found.format == form
    written = write(found, tmp_path / 'out')
    assert written.classes == tuple(c['name'] for c in coco['categories'])
    arguments = written.datasets['all']
    assert arguments['ann_file'].startswith(str(tmp_path / 'out'))
    expected = original(coco, root, tmp_path, masks)
    same(loaded(arguments, written.classes, masks), expected)
    names = {line.rpartition('/')[2] for line in written.lists['all'].read_text().splitlines()}
    assert names == {image['file_name'] for image in coco['images']}


def test_a_coco_file_that_needs_nothing_is_named_not_copied(coco, images, tmp_path):
    link_images(coco, images, tmp_path / 'set' / 'images')
    path = tmp_path / 'set' / 'a.json'
    path.write_text(json.dumps(coco))
    written = write(find(path), tmp_path / 'out')
    assert written.datasets['all']['ann_file'] == str(path)
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['all.images.txt']
    same(
        loaded(written.datasets['all'], written.classes, True),
        original(coco, images, tmp_path, True),
    )


def test_files_appear_complete_or_not_at_all(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('before')
    with pytest.raises(TypeError, match='not JSON serializable'):
        write_coco({'images': [{'id': 1}, {'id': object()}]}, path)
    assert [p.name for p in tmp_path.iterdir()] == ['list.txt']
    assert path.read_text() == 'before'


def test_coco_is_written_as_json(coco, tmp_path):
    coco['info'] = {'description': 'Ümlaut'}
    write_coco(coco, tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text()) == coco
