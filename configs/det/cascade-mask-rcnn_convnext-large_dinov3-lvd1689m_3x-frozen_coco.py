# Beyond the papers: only neck, heads and the norms of the outputs learn.
_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector

model = detector('convnext-large_dinov3-lvd1689m', frozen_stages=4)
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=1.0))
