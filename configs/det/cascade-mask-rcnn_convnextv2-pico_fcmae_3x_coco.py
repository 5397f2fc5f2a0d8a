# Beyond the paper: the protocol of V1-T, with the layer decay of V2's sweep.
_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-pico_fcmae', drop_path_rate=0.1)
optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(lr=2e-4), paramwise_cfg=dict(decay_rate=0.9)
)
