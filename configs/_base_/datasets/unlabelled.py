# Images of any folders, tools/pretrain.py --data DIR [DIR ...]; a crop is a fifth to all of an image.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCropFlip', size=224, area=(0.2, 1.0), flip=0.5),
    dict(type='PackImage'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='UnlabelledImages', sources=['data/imagenet/train'], pipeline=train_pipeline),
)
