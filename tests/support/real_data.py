"""Real COCO and ADE20K samples, and the pipelines that learn a few of them by heart."""

import pytest

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
