# ConvNeXt V2's protocol (appendix A.3 of its paper): Mask R-CNN with large-scale jitter and soft-NMS. It
# was swept over layer decay 0.9, 0.95 and drop path 0.2 to 0.5, and what was chosen for which size was
# never published: 0.95 is what mmdetection's reproduction of V2-B takes.
_base_ = [
    '../methods/mask-rcnn.py',
    '../datasets/coco-lsj.py',
    '../schedules/coco-3x.py',
    '../runtime/detection.py',
]
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size, pad_mask=True)]
    ),
    test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms'))),
)
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=0.95))
auto_scale_lr = dict(base_batch_size=32)
