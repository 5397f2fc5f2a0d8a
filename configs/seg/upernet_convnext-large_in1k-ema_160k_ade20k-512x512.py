# ConvNeXt V1 under the protocol of V2, as table 7 of its paper compares them.
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnext-large_in1k-ema', drop_path_rate=0.4)
