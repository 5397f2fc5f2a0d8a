_base_ = 'default.py'
default_scope = 'mmseg'
custom_imports = dict(imports=['backbones', 'downstream.segmentation', 'downstream.running'])
# Segmentation counts iterations, detection epochs.
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
    visualization=dict(type='SegmentationPicturesHook'),
)
# Crops have one size, for which cuDNN looks for the fastest algorithms. CudnnBenchmarkHook: not for the
# images of validations and tests. Heads of detectors see another number of RoIs in every step.
env_cfg = dict(cudnn_benchmark=True)
log_processor = dict(by_epoch=False)
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
