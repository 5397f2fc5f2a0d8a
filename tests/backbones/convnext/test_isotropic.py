"""Isotropic ConvNeXts: the network is timm's blocks in a row, the pyramid is that of plain ViTs."""

import pytest
import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from backbones import ConfigError, ConvNeXtIsotropic, TimmBackbone, WeightsError
from backbones.convnext.archs import IsotropicArch
from backbones.convnext.classifier import classifier_of, describe_file
from backbones.optim.layer_decay import depths_of
from backbones.weights.load import load_state

pytest_plugins = ['downstream.pytest_plugin']


class Reference(nn.Module):
    """An isotropic classifier of timm's blocks, with the names of the official code."""

    def __init__(self, depth: int, dim: int, scale: float | None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 16, 16)
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(dim, ls_init_value=scale) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))

    def official(self) -> dict[str, torch.Tensor]:
        names = {'conv_dw': 'dwconv', 'mlp.fc': 'pwconv'}
        state = {}
        for key, value in self.state_dict().items():
            for name, official in names.items():
                key = key.replace(name, official)
            state[key] = value
        return state


@pytest.fixture
def small(monkeypatch):
    """Small networks in place of the published ones."""
    archs = {'small': IsotropicArch(2, 16, False), 'large': IsotropicArch(3, 24, True)}
    monkeypatch.setattr('backbones.convnext.archs.ISOTROPIC_ARCHS', archs)
    monkeypatch.setattr('backbones.convnext.isotropic.ISOTROPIC_ARCHS', archs)
    monkeypatch.setattr(ConvNeXtIsotropic, 'archs', archs)


def reference(size: str) -> Reference:
    torch.manual_seed(0)
    arch = ConvNeXtIsotropic.archs[size]
    model = Reference(arch.depth, arch.dim, 0.5 if arch.layer_scale else None).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize('size', ['small', 'large'])
def test_the_classifier_is_timms_blocks_in_a_row(small, size):
    theirs = reference(size)
    ours = classifier_of({f'module.{k}': v for k, v in theirs.official().items()})
    image = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', ['small', 'large'])
def test_official_weights_load_whole_and_give_the_same_map(small, size):
    theirs = reference(size)
    ours = ConvNeXtIsotropic(size).eval()
    report = load_state(ours, theirs.official())
    assert report.complete
    assert {name.partition('.')[0] for name in report.initialized} == {
        'pyramid', 'norm0', 'norm1', 'norm2', 'norm3',
    }  # fmt: skip
    image = torch.randn(1, 3, 64, 96)
    inner = theirs.blocks(theirs.stem(image))
    torch.testing.assert_close(ours(image)[2], ours.norm2(inner), rtol=1e-4, atol=1e-5)
    # written and read again under its own names
    again = ConvNeXtIsotropic(size)
    assert load_state(again, ours.state_dict()).complete


def test_the_pyramid_is_that_of_plain_vits():
    ours = ConvNeXtIsotropic('small')
    theirs = TimmBackbone('vit_small_patch16_224')
    assert ours.out_channels == theirs.out_channels == (96, 192, 384, 384)
    assert ours.out_strides == theirs.out_strides
    assert shapes(ours.pyramid) == shapes(theirs.pyramid)


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def test_it_fulfils_the_contract(small, check_backbone):
    check_backbone('convnext-iso-small')


def test_depths_freezing_and_arguments(small):
    model = ConvNeXtIsotropic('large', frozen_stages=1)
    trained = {k.partition('.')[0] for k, p in model.named_parameters() if p.requires_grad}
    assert trained == {'pyramid', 'norm0', 'norm1', 'norm2', 'norm3'}
    depths = depths_of(model)
    assert depths['stem.weight'] == (0, 5)
    assert [depths[f'stage.{i}.norm.weight'][0] for i in range(3)] == [1, 2, 3]
    assert depths['pyramid.0.0.weight'] == depths['norm3.bias'] == (4, 5)
    with pytest.raises(ConfigError, match='no arch .*known: small, large'):
        ConvNeXtIsotropic('tiny')
    with pytest.raises(ConfigError, match='frozen_stages=2'):
        ConvNeXtIsotropic('small', frozen_stages=2)


def test_the_tools_know_it(small, tool, tmp_path):
    theirs = reference('small')
    path = tmp_path / 'mine.safetensors'
    save_file(theirs.official(), path)
    result = tool('weights', 'inspect', path)
    assert 'network: ConvNeXtIsotropic small' in result.out, result.err
    result = tool('weights', 'check', path, path, '--resolution', '64')
    assert result.code == 0, result.err
    assert f'{path}: 5 classes' in result.out
    assert describe_file(reference('large').official()) == 'ConvNeXtIsotropic large'
    with pytest.raises(WeightsError, match='the weights of ConvNeXtIsotropic small'):
        load_state(ConvNeXtIsotropic('large'), theirs.official())
    with pytest.raises(WeightsError, match='not a classifier'):
        classifier_of({k: v for k, v in theirs.official().items() if 'head' not in k})
