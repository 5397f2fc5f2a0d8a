# Weights fine-tuned on ImageNet-22K alone were not released; these were fine-tuned on 1K after it.
# Drop path: the most that the sweep allowed.
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-640x640.py'
from downstream.drop_in import segmentor

model = segmentor('convnextv2-huge_fcmae-in22k-in1k-512', drop_path_rate=0.4)
