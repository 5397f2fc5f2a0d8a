# Drop path is that of V2-B; the larger the model, the more the sweep allowed.
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-large_fcmae', drop_path_rate=0.4)
