# ConvNeXt V2's protocol (appendix A.4 of its paper): V1's, with other scales where several are tested.
# Swept were learning rate 1e-4 to 3e-4, layer decay 0.8 and 0.9, and drop path 0.1 to 0.4; what was
# chosen for which size was never published. Rate and decay here are V1's.
_base_ = 'upernet_160k_ade20k-512x512.py'
from downstream.data.pipelines import segmentation_tta_pipeline

tta_pipeline = segmentation_tta_pipeline(_base_.image_scale, (0.75, 0.875, 1.0, 1.125, 1.25))
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=0.9))
