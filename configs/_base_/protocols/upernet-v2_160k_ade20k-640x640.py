# As upernet-v2_160k_ade20k-512x512.py, with crops of 640 x 640.
_base_ = 'upernet_160k_ade20k-640x640.py'
from downstream.data.pipelines import segmentation_tta_pipeline

tta_pipeline = segmentation_tta_pipeline(_base_.image_scale, (0.75, 0.875, 1.0, 1.125, 1.25))
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(decay_rate=0.9))
