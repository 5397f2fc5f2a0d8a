# 100 epochs of AdamW at a batch of 128, by half a cosine to a twentieth of the rate from the 50th on;
# 1,000 steps of warm-up, and a moving average of the weights, which is what is tested.
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=100, val_interval=10, dynamic_intervals=[(90, 1)]
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise'),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=5e-5,
        begin=50,
        end=100,
        T_max=50,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=128)
average = dict(
    type='EMAHook',
    ema_type='ExpMomentumEMA',
    momentum=0.0002,
    update_buffers=True,
    priority=49,
)
custom_hooks = [average]
