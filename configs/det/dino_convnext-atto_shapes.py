# The embedded example of DINO: the full method at reduced size, from random weights, on a CPU.
_base_ = [
    '../_base_/methods/dino.py',
    '../_base_/datasets/shapes-boxes.py',
    '../_base_/schedules/coco-3x.py',
    '../_base_/runtime/detection.py',
]
from downstream.drop_in import detector

width = 64
attention = dict(embed_dims=width, num_heads=4)
feed_forward = dict(embed_dims=width, feedforward_channels=256)
model = dict(
    **detector('convnext-atto', out_indices=(1, 2, 3)),
    num_queries=60,
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
    ),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(num_classes=3, embed_dims=width),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=40)),
    test_cfg=dict(max_per_img=60),
)
model['neck'].update(out_channels=width, norm_cfg=dict(num_groups=8))
model['data_preprocessor'].update(pad_size_divisor=1)
del attention, feed_forward

train_cfg = dict(max_epochs=30, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(lr=6e-4, weight_decay=1e-4),
    paramwise_cfg=dict(decay_rate=1.0),
    clip_grad=dict(max_norm=0.5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=51),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=30, milestones=[25], gamma=0.1),
]
default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
