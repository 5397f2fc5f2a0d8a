# Drop path: V1-L's.
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnextv2-large_fcmae-in1k', drop_path_rate=0.4)
