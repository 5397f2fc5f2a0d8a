"""Annotations of the embedded shapes, and of real images where they are there."""

import copy
import json
from pathlib import Path

import pytest

from tests.conftest import ROOT

REAL = ROOT.parent / 'shared' / 'data'
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f'no real samples: {REAL} is not there')


@pytest.fixture(scope='session')
def _shapes_coco(shapes) -> tuple[dict, Path]:
    content = json.loads((shapes / 'annotations' / 'instances_training.json').read_text())
    return content, shapes / 'images' / 'training'


@pytest.fixture
def coco(_shapes_coco) -> dict:
    """Annotations of four shapes images, those of crowds included; a copy."""
    return copy.deepcopy(_shapes_coco[0])


@pytest.fixture
def singles(coco) -> dict:
    """The same without crowds and without objects in several pieces."""
    coco['annotations'] = [
        one for one in coco['annotations'] if not one['iscrowd'] and len(one['segmentation']) == 1
    ]
    for number, one in enumerate(coco['annotations'], 1):
        one['id'] = number
    return coco


@pytest.fixture
def images(_shapes_coco) -> Path:
    """Where the images are."""
    return _shapes_coco[1]


@pytest.fixture(scope='session')
def real() -> tuple[dict, Path]:
    """COCO annotations of real images, and where these are."""
    if not REAL.is_dir():
        pytest.skip(f'no real samples: {REAL} is not there')
    folder = REAL / 'tiny_coco'
    content = json.loads((folder / 'annotations' / 'instances_val2017.json').read_text())
    content['images'] = content['images'][:12]
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [
        one
        for one in content['annotations']
        if one['image_id'] in ids and not one['iscrowd'] and len(one['segmentation']) == 1
    ]
    used = {one['category_id'] for one in content['annotations']}
    content['categories'] = [c for c in content['categories'] if c['id'] in used]
    return content, folder / 'val2017'
