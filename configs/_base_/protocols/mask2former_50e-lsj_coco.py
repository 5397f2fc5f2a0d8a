# Large-scale jitter to 1024 x 1024, padded by grey; images that lose all their objects by it stay.
_base_ = [
    '../methods/mask2former-instances.py',
    '../datasets/coco.py',
    '../schedules/mask2former-50e.py',
    '../runtime/detection-iterations.py',
]
from downstream.data.pipelines import resized_by_pillow

image_size = (1024, 1024)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomResize',
        scale=image_size,
        ratio_range=(0.1, 2.0),
        keep_ratio=True,
        backend='pillow',
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(
        type='FilterAnnotations',
        min_gt_bbox_wh=(1e-5, 1e-5),
        by_mask=True,
        keep_empty=False,
    ),
    dict(type='Pad', size=image_size, pad_val=dict(img=(128, 128, 128), masks=0)),
    dict(type='PackDetInputs'),
]
test_pipeline = resized_by_pillow(_base_.test_pipeline)
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
