# ConvNeXt V1 under the protocol of V2, as table 6 of its paper compares them.
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnext-large_in1k-ema', drop_path_rate=0.4)
