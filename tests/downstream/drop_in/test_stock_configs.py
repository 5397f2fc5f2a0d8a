"""Configs of mmdet and mmseg as they are, by name and as a base, with another backbone."""

import pytest

from backbones import ConfigError
from downstream.running.config import RunOptions, read_config

DEEPLAB = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'


def test_a_config_of_mmseg_is_a_base(tmp_path):
    """mmengine looks for the distribution mmsegmentation, which the fork's name is not."""
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {DEEPLAB!r}\nmodel = dict(decode_head=dict(num_classes=7))\n')
    cfg = read_config(RunOptions(str(path), backbone='convnext-atto'))
    assert cfg.model.decode_head.num_classes == 7
    assert cfg.model.decode_head.in_channels == 320
    assert cfg.model.decode_head.c1_in_channels == 40
    assert cfg.work_dir == 'work_dirs/mine_convnext-atto'


@pytest.mark.parametrize(
    'name',
    [
        'mmseg::convnext/convnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
        'mmdet::timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py',
    ],
)
def test_what_only_the_replaced_backbone_imports_need_not_be_installed(name):
    cfg = read_config(RunOptions(name, backbone='convnext-atto'))
    assert cfg.model.backbone.type == 'ConvNeXt'
    assert cfg.custom_imports.imports == ['downstream.running']  # the suite's hooks
    with pytest.raises(ConfigError, match='Failed to import custom modules'):
        read_config(RunOptions(name))


def test_a_module_that_is_still_needed_must_be_there(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = {DEEPLAB!r}\ncustom_imports = dict(imports=['no_such_heads'])\n")
    with pytest.raises(ConfigError, match=r'custom_imports.*no_such_heads'):
        read_config(RunOptions(str(path), backbone='convnext-atto'))


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mmdet::retinanet_r50_fpn_1x_coc.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
        ('mmyolo::a.py', 'mmyolo:: is none of mmdet:: and mmseg::'),
    ],
)
def test_a_mistyped_name_gets_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        read_config(RunOptions(name))
