# The embedded example: the full method with narrow heads, from random weights, in minutes on a CPU.
_base_ = [
    '../_base_/methods/upernet.py',
    '../_base_/datasets/shapes-masks.py',
    '../_base_/schedules/ade20k-160k.py',
    '../_base_/runtime/segmentation.py',
]
from downstream.drop_in import num_classes, segmentor

model = segmentor('convnext-atto')
model['data_preprocessor'] = dict(size=_base_.crop_size)
for head, fields in num_classes(_base_.model, 4).items():
    model[head].update(fields, channels=64)
del head, fields

train_cfg = dict(max_iters=200, val_interval=200)
optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=200, milestones=[160], gamma=0.1),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
log_processor = dict(window_size=10)
