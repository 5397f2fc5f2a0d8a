# The embedded example: the full method with narrow heads, from random weights, in minutes on a CPU.
_base_ = [
    '../_base_/methods/cascade-mask-rcnn.py',
    '../_base_/datasets/shapes-instances.py',
    '../_base_/schedules/coco-3x.py',
    '../_base_/runtime/detection.py',
]
from downstream.drop_in import detector, num_classes

width = 64
model = num_classes(_base_.model, 3, detector('convnext-atto'))
model['neck'].update(out_channels=width)
model['rpn_head'] = dict(in_channels=width, feat_channels=width)
roi_head = model['roi_head']
roi_head['bbox_head'] = [
    dict(head, in_channels=width, conv_out_channels=width, fc_out_channels=128)
    for head in roi_head['bbox_head']
]
roi_head['mask_head'].update(in_channels=width, conv_out_channels=width)
roi_head['bbox_roi_extractor'] = roi_head['mask_roi_extractor'] = dict(out_channels=width)
del roi_head
rcnn = [dict(stage, sampler=dict(stage.sampler, num=64)) for stage in _base_.model.train_cfg.rcnn]
model['train_cfg'] = dict(rcnn=rcnn, rpn_proposal=dict(nms_pre=500, max_per_img=200))
model['test_cfg'] = dict(rpn=dict(nms_pre=300, max_per_img=100))
del rcnn

train_cfg = dict(max_epochs=10, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=4e-4), paramwise_cfg=dict(decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=10, milestones=[8], gamma=0.1),
]
default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
