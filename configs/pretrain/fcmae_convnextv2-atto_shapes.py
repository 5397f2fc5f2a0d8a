# The embedded example: images of the embedded data without their annotations, small crops, a rate and a
# batch for a few hundred steps on a CPU.
_base_ = [
    '../_base_/methods/fcmae.py',
    '../_base_/datasets/unlabelled.py',
    '../_base_/schedules/fcmae-800e.py',
    '../_base_/runtime/pretraining.py',
]
data_root = 'data/shapes-unlabelled/'

model = dict(backbone=dict(arch='atto'), decoder_dim=128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # 0.7 to 1.4 times the size at which a detector or segmenter sees the objects.
    dict(type='RandomResizedCropFlip', size=128, area=(0.1, 0.4), flip=0.5),
    dict(type='PackImage'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(sources=[f'{data_root}images/training'], pipeline=train_pipeline),
)
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='WarmUpCosineLR', warm_up=2, end=20, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    logger=dict(interval=4),
    checkpoint=dict(interval=10),
    reconstructions=dict(interval=10),
)
log_processor = dict(window_size=4)
