_base_ = 'default.py'
default_scope = 'mmdet'
custom_imports = dict(imports=['backbones', 'downstream.detection', 'downstream.running'])
default_hooks = dict(visualization=dict(type='DetectionPicturesHook'))
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
