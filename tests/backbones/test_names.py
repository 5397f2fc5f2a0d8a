"""Names of backbones: the config that each means, and one clear error for those that mean none."""

import sys

import pytest
from mmengine.registry import MODELS

from backbones import ConfigError, WeightsError
from backbones.names import backbone_config, built_in_names


def pretrained(checkpoint: str) -> dict:
    return {'type': 'Pretrained', 'checkpoint': checkpoint}


@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('convnext-atto', {'type': 'ConvNeXt', 'arch': 'atto'}),
        (
            'convnextv2-base_fcmae',
            {
                'type': 'ConvNeXtV2',
                'arch': 'base',
                'init_cfg': pretrained('convnextv2-base_fcmae'),
            },
        ),
        (
            'swin-tiny_in1k',
            {
                'type': 'TimmBackbone',
                'model': 'swin_tiny_patch4_window7_224',
                'init_cfg': pretrained('swin-tiny_in1k'),
            },
        ),
        ('resnet-50', {'type': 'TimmBackbone', 'model': 'resnet50'}),
        ('resnext101-64x4d', {'type': 'TimmBackbone', 'model': 'resnext101_64x4d'}),
        ('convnext-iso-small', {'type': 'ConvNeXtIsotropic', 'arch': 'small'}),
        (
            'convnext-iso-base_in1k-ema',
            {
                'type': 'ConvNeXtIsotropic',
                'arch': 'base',
                'init_cfg': pretrained('convnext-iso-base_in1k-ema'),
            },
        ),
        ('roadmap-resnet', {'type': 'Roadmap', 'step': 'resnet', 'regime': 'tiny'}),
        (
            'roadmap-kernel-7-base',
            {'type': 'Roadmap', 'step': 'kernel-7', 'regime': 'base'},
        ),
        ('timm:regnety_002', {'type': 'TimmBackbone', 'model': 'regnety_002'}),
        (
            'timm:regnety_002.pycls_in1k',
            {
                'type': 'TimmBackbone',
                'model': 'regnety_002',
                'init_cfg': pretrained('timm:regnety_002.pycls_in1k'),
            },
        ),
        ('ConvNeXt', {'type': 'ConvNeXt'}),
        ('mmdet.HRNet', {'type': 'mmdet.HRNet'}),
        ('backbones.convnext:ConvNeXtV2', {'type': 'backbones.convnext.ConvNeXtV2'}),
    ],
)
def test_a_name_means_a_config(name, config):
    assert backbone_config(name) == config


def test_arguments_are_handed_on():
    assert backbone_config('convnext-atto', with_cp=True)['with_cp']
    assert backbone_config('timm:resnet18', norm_eval=True)['norm_eval']


def test_every_built_in_is_a_name():
    names = built_in_names()
    assert len(names) == len(set(names)) == 31 + 3 + 3 * 14
    for name in names:
        assert isinstance(MODELS.get(backbone_config(name)['type']), type)


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('convnext-tini', ConfigError, 'Did you mean convnext-tiny or'),
        ('convnext_tiny', ConfigError, 'convnext-tiny or .*timm:convnext_tiny'),
        ('resnet50', ConfigError, 'resnet-50 or .*timm:resnet50'),
        ('swin-huge', ConfigError, 'swin-large'),
        ('roadmap-kernel-9', ConfigError, 'known: resnet, stage-ratio, .*also with -base or -atto'),
        ('roadmap-gelu_in1k', WeightsError, 'none of roadmap-gelu are known'),
        ('xyz', ConfigError, 'Built-in: convnext-atto, .*module.path:ClassName'),
        ('timm:resnet5', ConfigError, 'Did you mean resnet50'),
        ('timm:resnet50.a9', WeightsError, 'known: a1_in1k'),
        ('convnext-tiny_in12k', WeightsError, 'known: convnext-tiny_in1k'),
        ('convnextv2-small_fcmae', WeightsError, 'none of convnextv2-small are known'),
        ('swin-tiny_in22k', WeightsError, 'known: swin-tiny_in1k'),
        ('nowhere:Net', ConfigError, "no module 'nowhere'.*PYTHONPATH"),
        ('backbones.convnext:ConvNet', ConfigError, 'no class .*ConvNeXt'),
    ],
)
def test_a_name_that_means_nothing_is_one_clear_error(name, error, message):
    with pytest.raises(error, match=message):
        backbone_config(name)


def test_modules_are_looked_for_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / 'my_nets.py').write_text('class Net:\n    pass\n')
    (tmp_path / 'my_broken_nets.py').write_text('import no_such_library\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    assert backbone_config('my_nets:Net') == {'type': 'my_nets.Net'}
    with pytest.raises(ConfigError, match='importing my_broken_nets failed: .*no_such_library'):
        backbone_config('my_broken_nets:Net')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('class Net(:\n', r'SyntaxError: .*my_wrong_nets\.py, line 1'),
        (
            '\nclass Net(Base): ...\n',
            r"NameError: name 'Base' is not defined .*my_wrong_nets\.py, line 2",
        ),
    ],
)
def test_a_mistake_in_the_module_is_one_line_with_its_place(text, words, tmp_path, monkeypatch):
    (tmp_path / 'my_wrong_nets.py').write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f'importing my_wrong_nets failed: {words}'):
        backbone_config('my_wrong_nets:Net')


def test_a_file_in_the_place_of_a_module(tmp_path, monkeypatch):
    (tmp_path / 'my_file_nets.py').write_text('')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r'A module has no \.py: my_file_nets:Net\.'):
        backbone_config('my_file_nets.py:Net')
