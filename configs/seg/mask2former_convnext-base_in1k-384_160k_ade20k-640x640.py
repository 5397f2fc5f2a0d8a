_base_ = '../_base_/protocols/mask2former_160k_ade20k-640x640.py'
from downstream.drop_in import mask2former

model = mask2former('convnext-base_in1k-384', drop_path_rate=0.4)
