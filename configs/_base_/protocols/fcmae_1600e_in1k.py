_base_ = [
    '../methods/fcmae.py',
    '../datasets/unlabelled.py',
    '../schedules/fcmae-1600e.py',
    '../runtime/pretraining.py',
]
