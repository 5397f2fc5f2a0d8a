# ADE20K (SceneParse150) in data/ade/ADEChallengeData2016, crops of 512 x 512.
_base_ = []  # so that mmengine does not take the import below for one of its lazy imports
from downstream.data.pipelines import segmentation_tta_pipeline

data_root = 'data/ade/ADEChallengeData2016/'
crop_size = (512, 512)
image_scale = (2048, 512)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # after Resize: the metric compares at the size of the mask
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='SegmentationMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# tools/test.py --tta: the official multi-scale protocol, whole images at six scales, each flipped.
tta_model = dict(type='SegTTAModel', module=dict(test_cfg=dict(_delete_=True, mode='whole')))
tta_pipeline = segmentation_tta_pipeline(image_scale, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75))
