# BatchNorm is frozen whole, no convolution is.
_base_ = '../_base_/protocols/mask2former_50e-lsj_coco.py'
from downstream.drop_in import mask2former

model = mask2former(
    'resnet-50_in1k', 'detection', frozen_stages=-1, norm_eval=True, norm_frozen=True
)
