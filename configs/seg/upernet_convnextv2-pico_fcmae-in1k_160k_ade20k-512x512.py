# Beyond the paper: its protocol for a size it does not report, with less drop path the smaller it is.
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnextv2-pico_fcmae-in1k', drop_path_rate=0.1)
