_base_ = '../_base_/protocols/upernet_160k_ade20k-640x640.py'
from downstream.drop_in import segmentor

model = segmentor('convnext-large_in22k', drop_path_rate=0.4)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9))
