# The embedded example: Mask2Former with a narrow head of few layers, from random weights, in minutes on a
# CPU.
_base_ = [
    '../_base_/methods/mask2former.py',
    '../_base_/datasets/shapes-masks.py',
    '../_base_/schedules/mask2former-160k.py',
    '../_base_/runtime/segmentation.py',
]
from downstream.drop_in import mask2former, num_classes

width = 64
attention = dict(embed_dims=width)
feed_forward = dict(embed_dims=width, feedforward_channels=2 * width)
position = dict(num_feats=width // 2)
model = num_classes(_base_.model, 4, mask2former('convnext-atto'))
model['data_preprocessor'].update(size=_base_.crop_size)
model['decode_head'].update(
    feat_channels=width,
    out_channels=width,
    num_queries=20,
    pixel_decoder=dict(
        norm_cfg=dict(num_groups=8),
        encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
        positional_encoding=position,
    ),
    positional_encoding=position,
    transformer_decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
    ),
    train_cfg=dict(num_points=1024),
)
del attention, feed_forward, position

train_cfg = dict(max_iters=200, val_interval=200)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=21),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=200, milestones=[160], gamma=0.1),
]
tta_model = dict(type='MeanScoresTTAModel')
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
log_processor = dict(window_size=10)
