# The weights of this row, V2 trained with labels alone, were never released: name your own,
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
_base_ = '../_base_/protocols/mask-rcnn_3x-lsj_coco.py'
from downstream.drop_in import detector

model = detector('convnextv2-large', drop_path_rate=0.4)
