# 1600 epochs, of which 40 are a warm-up from 0, then half a cosine to 0, step by step. The rate is 1.5e-4
# for 256 images; the batch of the paper is 4096, 64 on each of 64 GPUs.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1600)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05),
    constructor='DecayByDimensionConstructor',
)
param_scheduler = [
    dict(type='WarmUpCosineLR', warm_up=40, end=1600, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4096)
