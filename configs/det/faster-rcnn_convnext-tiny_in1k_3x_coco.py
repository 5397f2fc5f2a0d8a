_base_ = '../_base_/protocols/faster-rcnn_3x_coco.py'
from downstream.drop_in import detector

model = detector('convnext-tiny_in1k', drop_path_rate=0.4)
optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95)
)
