_base_ = [
    '../methods/cascade-mask-rcnn.py',
    '../datasets/coco.py',
    '../schedules/coco-3x.py',
    '../runtime/detection.py',
]
