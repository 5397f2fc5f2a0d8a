# 50 epochs of COCO, as iterations at a batch of 16; the rate falls tenfold at 0.9 and 0.96 of them.
_base_ = 'mask2former-160k.py'
train_cfg = dict(max_iters=368750)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=368750,
        milestones=[327778, 355092],
        gamma=0.1,
    )
]
