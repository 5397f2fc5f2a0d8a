# BatchNorm is frozen whole, and of the convolutions the stem.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('resnet-50_in1k', frozen_stages=0, norm_frozen=True)
