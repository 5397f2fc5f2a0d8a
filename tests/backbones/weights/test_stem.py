"""Images of other channels than R, G and B: the stem, its weights, who takes an argument for it."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from backbones import ConvNeXt, ConvNeXtV2, TimmBackbone
from backbones.errors import ConfigError, WeightsError
from backbones.weights.load import load_state
from downstream.contract.checks import ContractChecks
from downstream.drop_in.facts import inspect_backbone
from downstream.running.checkpoint.read import matching_tensors

SMALL = dict(arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)))
NAMES = {
    'convnext': dict(type='ConvNeXt', **SMALL),
    'convnextv2': dict(type='ConvNeXtV2', **SMALL),
    'timm resnet': dict(type='TimmBackbone', model='resnet18'),
    'timm swin': dict(type='TimmBackbone', model='swin_tiny_patch4_window7_224', size_divisor=1),
}


def built(config: dict, **args) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build({**config, **args}).double().eval()


def stem(model: nn.Module) -> torch.Tensor:
    return next(value for value in model.state_dict().values() if value.ndim == 4)


@pytest.mark.parametrize(
    'config',
    [
        pytest.param(c, id=n, marks=[pytest.mark.slow] if 'swin' in n else [])
        for n, c in NAMES.items()
    ],
)
@torch.no_grad()
def test_channels_that_repeat_r_g_b_give_the_maps_of_the_rgb_image(config):
    rgb, six = built(config), built(config, in_channels=6)
    report = load_state(six, rgb.state_dict())
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    assert six.input_channels == 6
    for found, wanted in zip(six(image.repeat(1, 2, 1, 1)), rgb(image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert 'the weights of R, G and B repeated in turn, times 3/6, for 6 channels' in str(report)
    assert report.complete
    assert len(report.adapted) == 1


@pytest.mark.parametrize('config', list(NAMES.values())[::2], ids=list(NAMES)[::2])
@torch.no_grad()
def test_one_channel_gives_the_maps_of_the_grey_image(config):
    rgb, grey = built(config), built(config, in_channels=1)
    report = load_state(grey, rgb.state_dict())
    image = torch.randn(1, 1, 64, 96, dtype=torch.float64)
    # timm adds up in float32
    for found, wanted in zip(grey(image), rgb(image.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert 'added up' in str(report)


@pytest.mark.parametrize(('channels', 'order'), [(2, 'RG'), (4, 'RGBR'), (7, 'RGBRGBR')])
def test_other_counts_repeat_r_g_b_in_turn_and_scale(channels, order):
    rgb, other = built(NAMES['convnext']), built(NAMES['convnext'], in_channels=channels)
    load_state(other, rgb.state_dict())
    wanted = torch.stack([stem(rgb)[:, 'RGB'.index(c)] for c in order], 1) * (3 / channels)
    torch.testing.assert_close(stem(other), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize('config', list(NAMES.values())[::2], ids=list(NAMES)[::2])
def test_weights_of_as_many_channels_load_as_they_are(config):
    first, second = built(config, in_channels=5), built(config, in_channels=5)
    with torch.no_grad():
        stem(first).normal_()
    assert not load_state(second, first.state_dict()).adapted
    assert torch.equal(stem(first), stem(second))


def test_only_a_stem_for_rgb_images_is_adapted():
    five = built(NAMES['convnext'], in_channels=5).state_dict()
    for channels in (3, 4):
        with pytest.raises(WeightsError, match='mismatched: downsample_layers.0.0.weight'):
            load_state(built(NAMES['convnext'], in_channels=channels), five)


def test_files_in_timms_names_load_into_any_number_of_channels():
    import timm

    timm_model = timm.create_model('resnet18', num_classes=0)
    mine = TimmBackbone('resnet18', in_channels=4)
    report = load_state(mine, timm_model.state_dict())
    assert report.layout == 'timm'
    assert report.complete
    wanted = timm.create_model('resnet18', num_classes=0, in_chans=4)
    mine = TimmBackbone('resnet18', in_channels=4)
    assert not load_state(mine, wanted.state_dict()).adapted
    assert torch.equal(mine.model.conv1.weight, wanted.conv1.weight)


def test_fine_tuning_adapts_the_stem_of_a_whole_model():
    def model(backbone: nn.Module, classes: int) -> nn.Module:
        whole = nn.Module()
        whole.backbone, whole.head = backbone, nn.Conv2d(32, classes, 1)
        return whole

    rgb = model(ConvNeXt(**SMALL), 3)
    four = model(ConvNeXt(**SMALL, in_channels=4), 5)
    found = matching_tensors(rgb.state_dict(), four, 'rgb.pth', fine_tuning=True)
    assert found['backbone.downsample_layers.0.0.weight'].shape == (8, 4, 4, 4)
    with pytest.raises(WeightsError, match=r'downsample_layers.0.0.weight: \(8, 3, 4, 4\) in'):
        matching_tensors(rgb.state_dict(), four, 'rgb.pth')


class OnlyRGB(nn.Module):
    """A class without the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 32, 32)

    def forward(self, x):
        return (self.stem(x),)


class AnyChannels(OnlyRGB):
    def __init__(self, in_channels: int = 3) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Conv2d(in_channels, 8, 32, 32)


class OnlyFive(AnyChannels):
    input_channels = 5

    def __init__(self) -> None:
        super().__init__(5)


def test_a_class_that_takes_no_channels_is_named():
    with pytest.raises(ConfigError, match='OnlyRGB takes no argument in_channels'):
        inspect_backbone(f'{__name__}:OnlyRGB', 'detection', in_channels=4)
    facts = inspect_backbone(f'{__name__}:AnyChannels', 'detection', in_channels=4)
    assert (facts.input_channels, facts.channels) == (4, (8,))
    assert inspect_backbone(f'{__name__}:OnlyRGB', 'detection').input_channels == 3
    facts = inspect_backbone(f'{__name__}:OnlyFive', 'detection', in_channels=5)
    assert facts.input_channels == 5
    assert 'in_channels' not in facts.config


@pytest.mark.parametrize('value', [0, 2.5, 'four'])
def test_impossible_channels(value):
    for cls in (ConvNeXtV2, lambda **args: TimmBackbone('resnet18', **args)):
        with pytest.raises(ConfigError, match='in_channels='):
            cls(in_channels=value)


def test_the_contract_is_checked_with_images_of_the_backbones_channels():
    checks = ContractChecks('convnext-atto', False, 'cpu', dict(in_channels=4))
    assert checks.image((32, 32)).shape == (1, 4, 32, 32)
    assert checks.shapes([(32, 64)])
    assert 'GMACs' in str(checks.multiply_adds())


def test_statistics_of_rgb_weights_are_not_those_of_other_channels():
    assert inspect_backbone('convnext-atto', 'detection').mean is not None
    assert inspect_backbone('convnext-atto', 'detection', in_channels=4).mean is None
