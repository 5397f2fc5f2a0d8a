# Backbone and drop path of pull request 34 of facebookresearch/Mask2Former, in the standard schedule.
_base_ = '../_base_/protocols/mask2former_160k_ade20k-640x640.py'
from downstream.drop_in import mask2former

model = mask2former('convnext-base_in22k-in1k-384', drop_path_rate=0.4)
