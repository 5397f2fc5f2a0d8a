_base_ = 'default.py'
default_scope = 'mmseg'
custom_imports = dict(imports=['backbones', 'downstream.segmentation', 'downstream.running'])
# Segmentation counts iterations, detection epochs.
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
    visualization=dict(type='SegmentationPicturesHook'),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
