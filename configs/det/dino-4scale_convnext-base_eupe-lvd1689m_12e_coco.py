# Beyond the papers: EUPE's features under detrex's recipe.
_base_ = '../_base_/protocols/dino-4scale_12e_coco.py'
from downstream.drop_in import detr

model = detr('convnext-base_eupe-lvd1689m')
