_base_ = '../_base_/protocols/mask2former_50e-lsj_coco.py'
from downstream.drop_in import mask2former

model = mask2former('convnext-base_in22k-in1k-384', 'detection', drop_path_rate=0.4)
