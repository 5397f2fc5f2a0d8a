_base_ = [
    '../methods/mask-rcnn.py',
    '../datasets/coco.py',
    '../schedules/coco-3x.py',
    '../runtime/detection.py',
]
