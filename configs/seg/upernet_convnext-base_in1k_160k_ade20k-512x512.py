_base_ = '../_base_/protocols/upernet_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnext-base_in1k', drop_path_rate=0.4)
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=0.9))
