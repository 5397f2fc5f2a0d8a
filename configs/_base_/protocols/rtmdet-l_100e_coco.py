# 640 x 640: mosaics and mixed images, in the last ten epochs large-scale jitter alone.
_base_ = [
    '../methods/rtmdet-l.py',
    '../datasets/coco-boxes.py',
    '../schedules/rtmdet-100e.py',
    '../runtime/detection.py',
]
from downstream.data.pipelines import boxes_only, detection_test_pipeline, detection_tta_pipeline

side = (640, 640)
pad = dict(type='Pad', size=side, pad_val=dict(img=(114, 114, 114)))
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
]
jitter = [
    dict(type='RandomCrop', crop_size=side),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    pad,
]
train_pipeline = [
    *load,
    dict(type='CachedMosaic', img_scale=side, pad_val=114.0),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.1, 2.0), keep_ratio=True),
    *jitter,
    dict(
        type='CachedMixUp',
        img_scale=side,
        ratio_range=(1.0, 1.0),
        max_cached_images=20,
        pad_val=(114, 114, 114),
    ),
    dict(type='PackDetInputs'),
]
last_pipeline = [
    *load,
    dict(type='RandomResize', scale=side, ratio_range=(0.1, 2.0), keep_ratio=True),
    *jitter,
    dict(type='PackDetInputs'),
]
test_pipeline = boxes_only(detection_test_pipeline(side))
test_pipeline.insert(2, pad)  # after Resize
train_dataloader = dict(batch_size=16, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = boxes_only(detection_tta_pipeline([(320, 320), side, (960, 960)]))
custom_hooks = [
    _base_.average,
    dict(type='PipelineSwitchHook', switch_epoch=90, switch_pipeline=last_pipeline),
]
default_hooks = dict(checkpoint=dict(interval=10))
del side, pad, load, jitter
