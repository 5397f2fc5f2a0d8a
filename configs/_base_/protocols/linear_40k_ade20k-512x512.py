_base_ = [
    '../methods/linear.py',
    '../datasets/ade20k-512x512.py',
    '../schedules/ade20k-40k.py',
    '../runtime/segmentation.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(341, 341)),
)
default_hooks = dict(checkpoint=dict(interval=4000))
optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(lr=1e-3), paramwise_cfg=dict(decay_rate=1.0)
)
