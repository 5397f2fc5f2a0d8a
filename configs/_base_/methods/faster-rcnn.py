# Faster R-CNN (Ren et al. 2015) with FPN: boxes alone, for data without masks. Otherwise as mask-rcnn.py.
_base_ = 'mask-rcnn.py'
from downstream.drop_in import without_masks

model = without_masks(_base_.model)
