# The embedded data set without its masks.
_base_ = 'shapes-instances.py'
from downstream.data.pipelines import boxes_only

train_pipeline = boxes_only(_base_.train_pipeline)
test_pipeline = boxes_only(_base_.test_pipeline)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
tta_pipeline = boxes_only(_base_.tta_pipeline)
