_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector
from downstream.drop_in.weight_decay import as_for_resnets

model = detector('resnet-50_in1k')
optim_wrapper = dict(type='AmpOptimWrapper', **as_for_resnets(lr=1e-4))
