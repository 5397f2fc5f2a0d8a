# Beyond the paper: its protocol for a size it does not report, with less drop path the smaller it is.
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-pico_fcmae', drop_path_rate=0.1)
