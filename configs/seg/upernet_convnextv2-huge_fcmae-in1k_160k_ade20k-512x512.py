# Drop path: the most that the sweep allowed.
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnextv2-huge_fcmae-in1k', drop_path_rate=0.4)
