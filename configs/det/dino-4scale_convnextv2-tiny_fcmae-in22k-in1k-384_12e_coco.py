# Beyond the papers: ConvNeXt V2 under detrex's recipe.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('convnextv2-tiny_fcmae-in22k-in1k-384')
