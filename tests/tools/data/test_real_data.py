"""Real COCO and ADE20K images: the method learns them by heart, and the figures are pycocotools'."""

import json

import pytest

from tests.conftest import EXAMPLES, ROOT, coco_by_hand, read_metrics
from tests.support.real_data import COCO_PIPELINES, DATA, coco_images, needs_data

# Four images of several classes each, one of them with a crowd.
COCO_IMAGES = 4

COCO_CONFIG = """
_base_ = '{base}'
from downstream.drop_in import num_classes
data_root = '{data}/'
classes = {classes!r}
{pipelines}
dataset = dict(
    data_root=data_root, metainfo=dict(classes=classes), ann_file='{ann_file}',
    data_prefix=dict(img='train2017/'),
)
train_dataloader = dict(dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{ann_file}')
test_evaluator = val_evaluator
model = num_classes(_base_.model, len(classes))
train_cfg = dict(max_epochs=200, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=200, milestones=[160], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=100))
"""

ADE_CONFIG = """
_base_ = '{base}'
from downstream.drop_in import num_classes
data_root = '{data}/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(384, 256), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(384, 256), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True, type='ADE20KDataset', data_root=data_root,
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
)
train_dataloader = dict(batch_size=3, dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = num_classes(_base_.model, 150)
train_cfg = dict(max_iters=400, val_interval=400)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=400, milestones=[340], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=200))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_data
def test_cascade_mask_rcnn_learns_four_coco_images(tool, tmp_path, capfd):
    subset = coco_images(COCO_IMAGES)
    assert len(subset['categories']) == 80
    ann_file = tmp_path / 'four.json'
    ann_file.write_text(json.dumps(subset))
    config = tmp_path / 'coco.py'
    config.write_text(
        COCO_CONFIG.format(
            base=ROOT / EXAMPLES['detection'],
            pipelines=COCO_PIPELINES,
            data=DATA / 'tiny_coco',
            ann_file=ann_file,
            classes=tuple(c['name'] for c in subset['categories']),
        )
    )
    result = tool('train', config, '--work-dir', tmp_path / 'run')
    assert result.code == 0, result.err
    result = tool(
        'test',
        config,
        tmp_path / 'run' / 'epoch_200.pth',
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'out',
    )
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path / 'test')
    with capfd.disabled():
        for kind, row in metrics.items():
            print('\nCOCO', kind, {name: row[name] for name in row if name != 'per_class'})
    assert metrics['bbox']['AP50'] > 0.5
    for kind in ('bbox', 'segm'):
        by_hand = coco_by_hand(ann_file, tmp_path / 'out' / f'detections.{kind}.json', kind)
        assert {name: metrics[kind][name] for name in by_hand} == by_hand


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_data
def test_upernet_learns_three_ade20k_images(tool, tmp_path, capfd):
    config = tmp_path / 'ade.py'
    config.write_text(
        ADE_CONFIG.format(base=ROOT / EXAMPLES['segmentation'], data=DATA / 'ade20k_sample')
    )
    result = tool('train', config, '--work-dir', tmp_path / 'run')
    assert result.code == 0, result.err
    result = tool(
        'test', config, tmp_path / 'run' / 'iter_400.pth', '--work-dir', tmp_path / 'test'
    )
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path / 'test')
    present = {k: v for k, v in metrics['per_class'].items() if v['Acc'] is not None}
    mean = sum(v['IoU'] for v in present.values()) / len(present)
    with capfd.disabled():
        print(f'\nADE20K: mIoU {mean:.2f} over the {len(present)} classes present')
    assert mean > 60
