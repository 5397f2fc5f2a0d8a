_base_ = [
    '../methods/dino.py',
    '../datasets/coco-detrex.py',
    '../schedules/detrex-12e.py',
    '../runtime/detection-iterations.py',
]
