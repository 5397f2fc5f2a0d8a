# The baseline of mmdetection, with SGD.
_base_ = '../_base_/protocols/mask-rcnn_1x_coco.py'
from downstream.drop_in import detector

model = detector('resnet-50_in1k')
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
)
