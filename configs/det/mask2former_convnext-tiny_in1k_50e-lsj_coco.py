_base_ = '../_base_/protocols/mask2former_50e-lsj_coco.py'
from downstream.drop_in import mask2former

model = mask2former('convnext-tiny_in1k', 'detection', drop_path_rate=0.3)
