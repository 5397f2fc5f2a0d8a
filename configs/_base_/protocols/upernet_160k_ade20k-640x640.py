_base_ = [
    '../methods/upernet.py',
    '../datasets/ade20k-640x640.py',
    '../schedules/ade20k-160k.py',
    '../runtime/segmentation.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(426, 426)),
)
default_hooks = dict(checkpoint=dict(interval=16000))
