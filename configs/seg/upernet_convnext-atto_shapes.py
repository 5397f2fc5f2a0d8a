# The embedded example: the full method with narrow heads, from random weights, in minutes on a CPU.
_base_ = [
    '../_base_/methods/upernet.py',
    '../_base_/datasets/shapes-masks.py',
    '../_base_/schedules/ade20k-160k.py',
    '../_base_/runtime/segmentation.py',
]
from downstream.drop_in import num_classes, segmentor

model = num_classes(_base_.model, 4, segmentor('convnext-atto'))
model['data_preprocessor'].update(size=_base_.crop_size)
model['decode_head'].update(channels=64)
model['auxiliary_head'].update(channels=64)

train_cfg = dict(max_iters=300, val_interval=300)
optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=300, milestones=[240], gamma=0.1),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
log_processor = dict(window_size=10)
