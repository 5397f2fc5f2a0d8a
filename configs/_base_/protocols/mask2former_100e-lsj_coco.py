# As mask2former_50e-lsj_coco.py with twice the iterations and twice the queries.
_base_ = 'mask2former_50e-lsj_coco.py'
model = dict(panoptic_head=dict(num_queries=200))
train_cfg = dict(max_iters=737500)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=737500,
        milestones=[655556, 710184],
        gamma=0.1,
    )
]
