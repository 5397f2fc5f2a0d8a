# RTMDet-L (Lyu et al. 2022, arXiv 2212.07784) on three maps of any backbone: boxes alone, no anchors.
# GroupNorm in the place of its BatchNorms, as mmdetection has it for ConvNeXt and Swin.
_base_ = []  # so that mmengine does not take the import below for one of its lazy imports
from downstream.data.pipelines import imagenet_normalization

layers = dict(norm_cfg=dict(type='GN', num_groups=32), act_cfg=dict(type='SiLU', inplace=True))
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='AsyncDetDataPreprocessor', **imagenet_normalization(), bgr_to_rgb=True
    ),
    neck=dict(type='CSPNeXtPAFPN', out_channels=256, num_csp_blocks=3, expand_ratio=0.5, **layers),
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=80,
        in_channels=256,
        stacked_convs=2,
        feat_channels=256,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        **layers,
    ),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=30000,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.65),
        max_per_img=300,
    ),
)
del layers
