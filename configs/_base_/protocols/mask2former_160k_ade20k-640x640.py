_base_ = [
    '../methods/mask2former.py',
    '../datasets/ade20k-640x640.py',
    '../schedules/mask2former-160k.py',
    '../runtime/segmentation.py',
]
from downstream.data.pipelines import short_side_crops

train_pipeline = short_side_crops(_base_.crop_size[0])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(data_preprocessor=dict(size=_base_.crop_size))
tta_model = dict(_delete_=True, type='MeanScoresTTAModel')
default_hooks = dict(checkpoint=dict(interval=5000))
