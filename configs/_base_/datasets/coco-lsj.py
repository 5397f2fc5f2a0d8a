# COCO with large-scale jitter (Ghiasi et al. 2021): 0.1 to 2 times 1024 x 1024, then a crop.
_base_ = 'coco.py'
image_size = (1024, 1024)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# 32 images a step on 8 GPUs
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
