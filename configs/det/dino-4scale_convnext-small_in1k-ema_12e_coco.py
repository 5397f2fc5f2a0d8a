# detrex does not name the ImageNet-1k file of this row; its resolution has no official one.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('convnext-small_in1k-ema')
