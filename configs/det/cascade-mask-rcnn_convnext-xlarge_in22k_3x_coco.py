_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector

model = detector('convnext-xlarge_in22k', drop_path_rate=0.8)
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.7))
