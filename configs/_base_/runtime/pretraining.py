_base_ = 'default.py'
default_scope = 'mmengine'
custom_imports = dict(imports=['backbones', 'pretraining', 'downstream.running'])
default_hooks = dict(
    checkpoint=dict(interval=20, save_best=None),
    reconstructions=dict(type='ReconstructionPicturesHook', interval=20),
    encoder=dict(type='EncoderHook'),
)
# Crops have one size, for which cuDNN looks for the fastest algorithms.
env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
