# COCO 2017 without its masks, as detrex trains DETRs: resized by Pillow, and before a crop without a
# bound on the long side, for which 4,200 is enough.
_base_ = 'coco-boxes.py'
from downstream.data.pipelines import resized_by_pillow

train_pipeline = resized_by_pillow(_base_.train_pipeline)
train_pipeline[3]['transforms'][1][0]['scales'] = [(400, 4200), (500, 4200), (600, 4200)]
test_pipeline = resized_by_pillow(_base_.test_pipeline)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = resized_by_pillow(_base_.tta_pipeline)
