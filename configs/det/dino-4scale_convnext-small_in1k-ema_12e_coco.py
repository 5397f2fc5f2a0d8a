# detrex does not name the ImageNet-1k file of this row; there is no official one at 384 x 384.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('convnext-small_in1k-ema')
