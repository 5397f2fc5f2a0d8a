_base_ = '../_base_/protocols/mask-rcnn_1x_coco.py'
from downstream.drop_in import detector
from downstream.drop_in.weight_decay import as_in_swin

model = detector('swin-tiny_in1k', drop_path_rate=0.2)
optim_wrapper = as_in_swin(lr=1e-4)
