# detrex does not name the ImageNet-1k file of this row; this is the official one at its resolution.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('convnext-large_in1k-384')
