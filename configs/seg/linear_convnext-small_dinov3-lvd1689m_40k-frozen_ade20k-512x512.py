# How DINOv3's model card compares features; its figure is published, its recipe is not.
_base_ = '../_base_/protocols/linear_40k_ade20k-512x512.py'
from downstream.drop_in import linear_segmentor

model = linear_segmentor('convnext-small_dinov3-lvd1689m', frozen_stages=4)
