_base_ = '../_base_/protocols/mask2former_160k_ade20k-512x512.py'
from downstream.drop_in import mask2former

model = mask2former('convnext-small_in1k', drop_path_rate=0.3)
