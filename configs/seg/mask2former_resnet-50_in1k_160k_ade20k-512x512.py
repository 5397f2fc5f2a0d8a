# BatchNorm is frozen whole, no convolution is.
_base_ = '../_base_/protocols/mask2former_160k_ade20k-512x512.py'
from downstream.drop_in import mask2former

model = mask2former('resnet-50_in1k', sync_bn=False, norm_eval=True, norm_frozen=True)
