# FCMAE of ConvNeXt V1, which the paper compares: layer scale, no GRN.
_base_ = '../_base_/protocols/fcmae_800e_in1k.py'

model = dict(backbone=dict(type='ConvNeXt', arch='base', layer_scale_init_value=1e-6))
