# Beyond the papers: DINOv3's features under V1's recipe for this size, with the rate of large-scale
# pretraining.
_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector

model = detector('convnext-base_dinov3-lvd1689m', drop_path_rate=0.7)
optim_wrapper = dict(
    type='AmpOptimWrapper', optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.8)
)
