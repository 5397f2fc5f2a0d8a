# Cascade R-CNN (Cai and Vasconcelos 2018): boxes alone, for data without masks. Otherwise as
# cascade-mask-rcnn.py.
_base_ = 'cascade-mask-rcnn.py'
from downstream.drop_in import without_masks

model = without_masks(_base_.model)
