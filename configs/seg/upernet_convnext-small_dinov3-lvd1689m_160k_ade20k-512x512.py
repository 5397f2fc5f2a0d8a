# Beyond the papers: DINOv3's features under V1's recipe for this size.
_base_ = '../_base_/protocols/upernet_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnext-small_dinov3-lvd1689m', drop_path_rate=0.3)
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=0.9))
