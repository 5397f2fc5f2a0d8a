# ADE20K with crops of 640 x 640, as the models pretrained on ImageNet-22K are trained.
_base_ = 'ade20k-512x512.py'
from downstream.data.pipelines import segmentation_tta_pipeline

crop_size = (640, 640)
image_scale = (2560, 640)

train_pipeline = [
    dict(step, scale=image_scale)
    if step.type == 'RandomResize'
    else dict(step, crop_size=crop_size)
    if step.type == 'RandomCrop'
    else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, scale=image_scale) if step.type == 'Resize' else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = segmentation_tta_pipeline(image_scale, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75))
