# detrex's 12 epochs: 90,000 iterations of AdamW at a batch of 16, the rate falling tenfold after 82,500;
# no warm-up. The backbone learns at a tenth of the rate.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=90000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='DefaultOptimWrapperConstructor',
    # detrex exempts torch's norms alone from weight decay, and its ConvNeXt has norms of its own: these
    # keep theirs. So does here all that a custom key names.
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=90000, milestones=[82500], gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
