_base_ = '../_base_/protocols/mask2former_100e-lsj_coco.py'
from downstream.drop_in import mask2former

model = mask2former('convnextv2-large_fcmae-in22k-in1k-384', 'detection', drop_path_rate=0.4)
