# The authors of ConvNeXt trained this row themselves; of their sweep the values are not published. These
# are the ones of Swin-B from ImageNet-1K.
_base_ = '../_base_/protocols/cascade-mask-rcnn_3x_coco.py'
from downstream.drop_in import detector
from downstream.drop_in.weight_decay import as_in_swin

model = detector('swin-large_in22k', drop_path_rate=0.3)
optim_wrapper = dict(type='AmpOptimWrapper', **as_in_swin(lr=1e-4))
