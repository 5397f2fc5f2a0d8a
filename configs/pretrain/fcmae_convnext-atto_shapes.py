# The embedded example with ConvNeXt V1: layer scale, no GRN.
_base_ = 'fcmae_convnextv2-atto_shapes.py'

model = dict(backbone=dict(type='ConvNeXt', layer_scale_init_value=1.0))
