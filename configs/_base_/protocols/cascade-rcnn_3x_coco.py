_base_ = [
    '../methods/cascade-rcnn.py',
    '../datasets/coco-boxes.py',
    '../schedules/coco-3x.py',
    '../runtime/detection.py',
]
