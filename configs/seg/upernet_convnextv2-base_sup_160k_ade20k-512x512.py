# The weights of this row, V2 trained with labels alone, were never released: name your own,
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
_base_ = '../_base_/protocols/upernet-v2_160k_ade20k-512x512.py'
from downstream.drop_in import segmentor

model = segmentor('convnextv2-base', drop_path_rate=0.3)
