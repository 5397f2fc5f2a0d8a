_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr
from downstream.drop_in.weight_decay import of_swin_in_detrex

model = detr('swin-tiny_in22k-in1k', drop_path_rate=0.1)
optim_wrapper = dict(paramwise_cfg=of_swin_in_detrex())
