_base_ = [
    '../methods/fcmae.py',
    '../datasets/unlabelled.py',
    '../schedules/fcmae-800e.py',
    '../runtime/pretraining.py',
]
