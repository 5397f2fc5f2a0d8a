_base_ = '../_base_/protocols/mask-rcnn_1x_coco.py'
from downstream.drop_in import detector

model = detector('convnext-tiny_in1k', drop_path_rate=0.2)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95))
