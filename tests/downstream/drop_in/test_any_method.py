"""What necks, heads, preprocessors and optimizers of stock recipes are told of another backbone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from backbones import ConfigError
from downstream.drop_in import drop_in
from downstream.drop_in.pretrained import with_init_cfg
from downstream.paths import find_config
from downstream.running.config import RunOptions, read_config

# Channels of convnext-atto at strides 4, 8, 16 and 32, from its paper.
ATTO = [40, 80, 160, 320]


def dropped(name: str, backbone: str = 'convnext-atto') -> tuple[Config, str]:
    cfg = Config.fromfile(find_config(name), import_custom_modules=False)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return cfg, drop_in(cfg, backbone)


def field(node: object, path: str) -> object:
    for part in path.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    return node


CASES = {
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py': {
        'backbone.out_indices': (1, 2, 3),  # the neck started at the second map
        'neck.in_channels': ATTO[1:],
        'neck.start_level': 0,
        'data_preprocessor.pad_size_divisor': 32,
    },
    'mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py': {'neck.0.in_channels': ATTO[1:]},
    # Its neck counts maps from the first one, which it does not read.
    'mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py': {
        'neck.in_channels': ATTO,
        'neck.start_level': 1,
    },
    'mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py': {'neck.0.in_channels': ATTO},
    'mmdet::detr/detr_r50_8xb2-150e_coco.py': {
        'backbone.out_indices': (3,),
        'neck.in_channels': [320],
        'data_preprocessor.pad_size_divisor': 1,
    },
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': {
        'neck.in_channels': ATTO[1:],
        'data_preprocessor.pad_size_divisor': 1,
    },
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py': {
        'neck.in_channels': [320, 160, 80],
        'neck.out_channels': [512, 256, 128],
    },
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py': {
        'backbone.out_indices': (3,),
        'neck.in_channels': 320,
    },
    'mmdet::ssd/ssd300_coco.py': {
        'backbone.out_indices': (1, 2),  # its anchors are for strides 8 and 16
        'neck.in_channels': (80, 160),
        'neck.out_channels': (80, 160, 512, 256, 256, 256),
        'bbox_head.in_channels': (80, 160, 512, 256, 256, 256),
    },
    'mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py': {'panoptic_head.in_channels': ATTO},
    'mmdet::crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py': {
        'data_preprocessor.pad_size_divisor': 64,
    },
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py': {
        'detector.neck.in_channels': ATTO,
        'detector.data_preprocessor.mean': [123.675, 116.28, 103.53],
        'data_preprocessor.data_preprocessor.mean': [123.675, 116.28, 103.53],
    },
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py': {
        'backbone.out_indices': (2, 3),
        'decode_head.in_index': 1,
        'decode_head.in_channels': 320,
        'auxiliary_head.in_index': 0,
        'auxiliary_head.in_channels': 160,
    },
    'mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py': {
        'decode_head.in_index': [0, 1],
        'decode_head.in_channels': [160, 320],
    },
    'mmseg::encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py': {
        'backbone.out_indices': (2, 3),  # the head lists three maps and reads the last
        'decode_head.in_channels': [320],
    },
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py': {
        'backbone.out_indices': (0, 2, 3),
        'decode_head.c1_in_channels': 40,
        'decode_head.in_index': 2,
    },
    'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py': {
        'neck.in_channels': (80, 160, 320),
        'decode_head.in_channels': 2048,  # the neck's own
        'auxiliary_head.in_channels': 160,  # the neck hands this map on
    },
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py': {
        'neck.in_channels': ATTO,
        'decode_head.in_channels': [256] * 4,
    },
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py': {
        'decode_head.in_channels': ATTO,
    },
    'mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py': {
        'decode_head.kernel_generate_head.in_channels': 320,
    },
    'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py': {
        'decode_head.in_channels': ATTO,
        'auxiliary_head.in_channels': 160,
    },
    'mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py': {'decode_head.in_channels': 320},
}


@pytest.mark.parametrize('name', CASES)
def test_a_recipe_is_told_of_the_maps(name):
    cfg, _ = dropped(name)
    for path, value in CASES[name].items():
        assert field(cfg.model, path) == value, path
    assert 'pretrained' not in cfg.model


def test_the_report_says_how_the_backbone_learns():
    _, report = dropped('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    assert "rate  the backbone learns at 0.1 of the heads' rate" in report
    cfg, report = dropped('mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
    # mmseg's constructor gives a backbone that it does not know one rate
    assert cfg.optim_wrapper.constructor == 'LayerDecayOptimWrapperConstructor'
    assert cfg.optim_wrapper.paramwise_cfg == {'decay_rate': 0.65, 'decay_type': 'layer_wise'}
    for words in ('0.65 layer_wise, 6 groups', 'LayerDecayOptimizerConstructor', 'Feature2Pyramid'):
        assert words in report


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', 'stacks of an hourglass'),
        ('detectors/htc_r50-rfp_1x_coco.py', 'feeds maps back'),
        ('tridentnet/tridentnet_r50-caffe_1x_coco.py', 'three dilations'),
        ('faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py', r'roi_head\.shared_head'),
        ('misc/d2_mask-rcnn_r50-caffe_fpn_ms-90k_coco.py', r'no model\.backbone'),
    ],
)
def test_what_takes_no_other_backbone_is_one_clear_error(name, message):
    with pytest.raises(ConfigError, match=message):
        dropped(f'mmdet::{name}')


def test_a_pooling_that_is_larger_than_the_map_is_one_clear_error():
    message = (
        r'LRASPPHead, pools 49 x 49 .* at stride 32 crops of 1568 pixels; .* are \(512, 1024\)'
    )
    with pytest.raises(ConfigError, match=message):
        dropped('mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py')


def test_norms_of_mmcv_need_no_compiled_operators(tmp_path):
    recipe = 'mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco.py'
    cfg = read_config(RunOptions(f'mmdet::strong_baselines/{recipe}', str(tmp_path)))
    assert cfg.model.roi_head.bbox_head.norm_cfg.type == 'SyncBN'  # not MMSyncBN
    assert cfg.model.neck.norm_cfg.type == 'SyncBN'


@pytest.mark.parametrize('backbone', ['convnext-atto', 'timm:swin_tiny_patch4_window7_224'])
def test_foreign_heads_get_contiguous_maps(backbone):
    """DMNet's head calls ``view()`` on its map. The suite's own recipes keep the faster format."""
    cfg, _ = dropped('mmseg::dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py', backbone)
    with torch.no_grad():
        maps = MODELS.build(cfg.model.backbone)(torch.zeros(1, 3, 64, 96))
    assert all(m.is_contiguous() for m in maps)

    own = Config.fromfile(find_config('upernet_convnext-tiny_in1k_160k_ade20k-512x512'))
    drop_in(own, backbone)
    assert 'contiguous_maps' not in own.model.backbone


class PlainNet(nn.Module):
    """Knows nothing of the suite; its maps, of strides from 4 on, are views of (N, H, W, C)."""

    def __init__(self, maps: int = 4) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 8, 4, 4), *(nn.Conv2d(8, 8, 2, 2) for _ in range(maps - 1))]
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x):
        maps = []
        for convolution in self.convolutions:
            x = convolution(x).contiguous(memory_format=torch.channels_last)
            maps.append(x)
        return tuple(maps)


@pytest.mark.parametrize(
    'recipe',
    [
        'mmdet::atss/atss_r50_fpn_1x_coco.py',
        'mmseg::dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py',
        'dino-4scale_convnext-tiny_in1k-ema_12e_coco',
    ],
)
@pytest.mark.parametrize('maps', [4, 3])
def test_foreign_heads_get_contiguous_maps_of_plain_modules(recipe, maps, tmp_path):
    """A class without ``contiguous_maps`` could not be built for such heads at all."""
    cfg = read_config(
        RunOptions(
            recipe, backbone=f'{__name__}:PlainNet', cfg_options={'model.backbone.maps': maps}
        )
    )
    weights = tmp_path / 'weights.pth'
    torch.save(PlainNet(maps).state_dict(), weights)
    pretrained = dict(type='Pretrained', checkpoint=str(weights))
    config = with_init_cfg(cfg.model.backbone, pretrained)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        built = MODELS.build(config)
        found = built(torch.zeros(1, 3, 70, 90))  # odd sizes are cropped from padded ones
    assert all(m.is_contiguous() for m in found)
    assert built.init_cfg['checkpoint'] == str(weights)
    assert 'init_cfg' not in with_init_cfg(config, None)
    assert with_init_cfg(config, None) == cfg.model.backbone


def test_the_former_name_of_any_module_loads(tmp_path):
    """Configs in work dirs have it; in the place of their weights those of the checkpoint come."""
    weights = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    former = dict(type='WithWeights', module=f'{__name__}.PlainNet', init_cfg=weights, maps=3)
    assert MODELS.build(former).init_cfg == weights
    assert with_init_cfg(former, None) == dict(type=f'{__name__}.PlainNet', maps=3)
    assert with_init_cfg(former, weights) == dict(former, type='AnyModule')
