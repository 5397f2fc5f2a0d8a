_base_ = '../_base_/protocols/mask2former_160k_ade20k-512x512.py'
from downstream.drop_in import mask2former
from downstream.drop_in.weight_decay import of_swin_in_mask2former

model = mask2former('swin-tiny_in1k', drop_path_rate=0.3)
optim_wrapper = dict(paramwise_cfg=of_swin_in_mask2former())
