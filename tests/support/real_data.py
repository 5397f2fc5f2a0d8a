"""Real COCO and ADE20K samples, and the pipelines that learn a few of them by heart."""

import pytest
from pycocotools.coco import COCO

from tests.conftest import ROOT

DATA = ROOT.parent / 'shared' / 'data'
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f'no real samples: {DATA} is not there')
# In a config on the embedded example: images of 480 x 384, without augmentation.
COCO_PIPELINES = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(480, 384), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [dict(step) for step in _base_.test_pipeline]
test_pipeline[1].update(scale=(480, 384))
"""


def coco_images(count: int) -> dict:
    """Annotations of ``count`` images with three to eight objects, the first of which has a crowd."""
    source = COCO(str(DATA / 'tiny_coco' / 'annotations' / 'instances_train2017.json'))
    chosen = [i for i in sorted(source.imgs) if len(source.getAnnIds(imgIds=i)) in range(3, 9)]
    crowded = [i for i in sorted(source.imgs) if source.getAnnIds(imgIds=i, iscrowd=True)]
    chosen = [crowded[0], *[i for i in chosen if i != crowded[0]]][:count]
    return {
        'images': source.loadImgs(chosen),
        'annotations': source.loadAnns(source.getAnnIds(imgIds=chosen)),
        'categories': source.dataset['categories'],
    }
