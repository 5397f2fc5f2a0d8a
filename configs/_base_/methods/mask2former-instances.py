# Mask2Former for the instances of COCO: the head of mask2former.py with the classes of things alone.
_base_ = 'mask2former.py'
from downstream.data.pipelines import imagenet_normalization

head = dict(_base_.model.decode_head)
training = head.pop('train_cfg')
for key in ('num_classes', 'align_corners'):
    head.pop(key)
head['loss_cls'] = dict(head['loss_cls'], class_weight=[1.0] * 80 + [0.1])
model = dict(
    _delete_=True,
    type='Mask2Former',
    data_preprocessor=dict(
        type='AsyncDetDataPreprocessor',
        **imagenet_normalization(),
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    panoptic_head=dict(head, num_things_classes=80, num_stuff_classes=0),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead',
        num_things_classes=80,
        num_stuff_classes=0,
        loss_panoptic=None,
        init_cfg=None,
    ),
    train_cfg=training,
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
del head, training, key
