_base_ = '../_base_/protocols/upernet_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor
from downstream.drop_in.weight_decay import as_in_swin

model = segmentor('swin-tiny_in1k', drop_path_rate=0.3)
model['test_cfg'] = dict(_delete_=True, mode='whole')
optim_wrapper = as_in_swin(lr=6e-5, weight_decay=0.01)
