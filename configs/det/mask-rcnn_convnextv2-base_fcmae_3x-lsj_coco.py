# Drop path is the value of mmdetection's reproduction of this row.
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-base_fcmae', drop_path_rate=0.4)
