_base_ = '../_base_/protocols/mask2former_50e-lsj_coco.py'
from downstream.drop_in import mask2former
from downstream.drop_in.weight_decay import of_swin_in_mask2former

model = mask2former('swin-base-384_in22k', 'detection', drop_path_rate=0.3)
optim_wrapper = dict(paramwise_cfg=of_swin_in_mask2former())
