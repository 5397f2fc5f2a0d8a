_base_ = '../_base_/protocols/rtmdet-l_100e_coco.py'
from downstream.drop_in import detector

model = detector(
    'convnext-base_in22k-in1k-384', drop_path_rate=0.7, out_indices=(1, 2, 3), with_cp=True
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
