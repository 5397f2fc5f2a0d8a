_base_ = [
    '../methods/faster-rcnn.py',
    '../datasets/coco-boxes.py',
    '../schedules/coco-3x.py',
    '../runtime/detection.py',
]
