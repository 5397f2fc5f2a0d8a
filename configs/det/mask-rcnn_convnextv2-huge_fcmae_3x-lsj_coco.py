# Drop path is the most that the sweep allowed, for the largest model.
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-huge_fcmae', drop_path_rate=0.5)
