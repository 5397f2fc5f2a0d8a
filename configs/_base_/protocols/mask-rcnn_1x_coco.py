# The protocol in which most backbones are compared: 12 epochs at one scale.
_base_ = [
    '../methods/mask-rcnn.py',
    '../datasets/coco-single-scale.py',
    '../schedules/coco-1x.py',
    '../runtime/detection.py',
]
