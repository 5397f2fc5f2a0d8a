# 160,000 iterations at a batch of 16, the rate falling by a power of 0.9 to 0, no warm-up. The backbone
# learns at a tenth of the rate. A scheduler's `end` is one past its last step.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

not_decayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor='DefaultOptimWrapperConstructor',
    # The official code exempts torch's norms and the embeddings of the decoder from weight decay. The key
    # `backbone` goes before that: norms of a backbone keep theirs, as in pull request 34 of the official
    # code, where ConvNeXt has its own class of LayerNorm. Recipes of Swin say otherwise.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            query_embed=not_decayed,
            query_feat=not_decayed,
            level_embed=not_decayed,
        ),
    ),
)
del not_decayed
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=160001)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
