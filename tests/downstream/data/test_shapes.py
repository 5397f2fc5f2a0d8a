"""The embedded data set: the same on every machine, and annotations that match the pictures."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from backbones import DataError
from downstream.data.shapes import HEIGHT, WIDTH, draw, make_shapes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    assert make_shapes(folder, training=12, validation=3)
    return folder


def test_a_second_call_changes_nothing(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert not make_shapes(root, training=12, validation=3)
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob('*')}


def test_is_deterministic(root, tmp_path):
    make_shapes(tmp_path / 'again', training=12, validation=3)
    for path in root.rglob('*'):
        if path.is_file():
            assert (tmp_path / 'again' / path.relative_to(root)).read_bytes() == path.read_bytes()
    first, second = draw(np.random.default_rng(5)), draw(np.random.default_rng(6))
    assert not np.array_equal(first[0], second[0])


def test_other_seeds_give_other_images_and_more_images_the_same_first(root, tmp_path):
    def contents(folder):
        return [path.read_bytes() for path in sorted(folder.glob('images/training/*.jpg'))]

    make_shapes(tmp_path / 'more', training=14, validation=0)
    assert contents(tmp_path / 'more')[:12] == contents(root)
    make_shapes(tmp_path / 'other', training=14, validation=0, seed=1)
    assert not set(contents(tmp_path / 'other')) & set(contents(tmp_path / 'more'))
    assert make_shapes(tmp_path / 'other', training=14, validation=0, seed=2)  # made anew


def test_instances_match_the_masks(root):
    coco = COCO(str(root / 'annotations' / 'instances_training.json'))
    kinds = {'crowd': 0, 'several parts': 0}
    sizes = set()
    for image_id, info in coco.imgs.items():
        path = root / 'annotations' / 'training' / info['file_name'].replace('.jpg', '.png')
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (HEIGHT, WIDTH)
        assert set(np.unique(mask)) <= {0, 1, 2, 3, 4}
        assert (mask[:, :4] == 0).all()
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            inside = coco.annToMask(annotation).astype(bool)
            inside[:, :4] = False
            of_class = mask[inside] == annotation['category_id'] + 1
            assert of_class.mean() > 0.5  # outlines run around what covers them inside
            kinds['crowd'] += annotation['iscrowd']
            kinds['several parts'] += len(annotation['segmentation']) > 1
            sizes.add(np.searchsorted([32**2, 96**2], annotation['area']))
    assert all(kinds.values())
    assert {0, 1} <= sizes


def test_crowds_are_run_length_coded(root):
    content = json.loads((root / 'annotations' / 'instances_training.json').read_text())
    crowds = [a for a in content['annotations'] if a['iscrowd']]
    assert crowds
    for crowd in crowds:
        assert sum(crowd['segmentation']['counts']) == HEIGHT * WIDTH
        assert sum(crowd['segmentation']['counts'][1::2]) == crowd['area']


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('precious')
    with pytest.raises(DataError, match='is no data set of shapes'):
        make_shapes(tmp_path)
    assert (tmp_path / 'thesis.txt').read_text() == 'precious'


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError('disk full')

    monkeypatch.setattr(cv2, 'imwrite', fail)
    with pytest.raises(OSError, match='disk full'):
        make_shapes(tmp_path / 'shapes')
    assert list(tmp_path.iterdir()) == []
