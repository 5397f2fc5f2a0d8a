"""The steps as backbones: contract, names, BatchNorm, freezing, layer decay, stochastic depth."""

import pytest
import torch
from torch import nn

from backbones import ConvNeXt, Roadmap
from backbones.optim.layer_decay import depths_of
from backbones.roadmap.names import name_of
from backbones.roadmap.steps import REGIMES, STEPS
from downstream.drop_in.facts import inspect_backbone

pytest_plugins = ['downstream.pytest_plugin']
SMALL = dict(depths=(1, 1, 2, 1), width=8)


def test_some_steps_fulfil_the_contract(check_backbone):
    check_backbone('roadmap-fewer-norms', **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize('regime', REGIMES)
@pytest.mark.parametrize('step', STEPS)
def test_every_step_fulfils_the_contract(check_backbone, step, regime):
    check_backbone(name_of(step, regime), **(SMALL if regime != 'atto' else {}))


@pytest.mark.parametrize('step', STEPS)
def test_maps_have_the_stated_channels_and_strides(step):
    model = Roadmap(step, **SMALL, out_indices=(3, 1))
    maps = model(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(model.out_channels)
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(32, 32), (8, 8)]
    assert hasattr(model, 'norm3') == (STEPS.index(step) >= 12)
    assert not hasattr(model, 'norm0')


@pytest.mark.parametrize('step', STEPS)
def test_detectors_treat_batch_norm_as_resnets(step, tmp_path):
    """Pretrained: statistics, stem and first stage frozen; from random values: nothing is."""
    has_batch_norm = STEPS.index(step) < 12
    path = tmp_path / 'mine.pth'
    torch.save(Roadmap(step, **SMALL).state_dict(), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    config = inspect_backbone(name_of(step), 'detection', **SMALL, init_cfg=init).config
    assert config.get('norm_eval', False) == has_batch_norm
    assert config.get('frozen_stages', -1) == (1 if has_batch_norm else -1)
    config = inspect_backbone(name_of(step), 'detection', **SMALL).config
    assert config.get('sync_bn', False) == has_batch_norm
    assert 'frozen_stages' not in config


def test_frozen_stages_and_statistics_do_not_change():
    model = Roadmap('gelu', **SMALL, frozen_stages=1, norm_eval=True).train()
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        k
        for k, _ in model.named_parameters()
        if k.startswith(('downsample_layers.0.', 'stages.0.'))
    }
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    whole = Roadmap('gelu', **SMALL, frozen_stages=4)
    assert not any(p.requires_grad for p in whole.parameters())


def test_depths_are_those_of_convnext():
    ours, theirs = Roadmap(STEPS[-1], 'atto'), ConvNeXt('atto')
    for decay_type in ('layer_wise', 'stage_wise'):
        assert depths_of(ours, decay_type) == depths_of(theirs, decay_type)
        for step in STEPS:
            depths = depths_of(Roadmap(step, **SMALL), decay_type)
            assert min(depths.values())[0] == 0
            assert {total for _, total in depths.values()} == {8}


@pytest.mark.parametrize('step', ['resnet', 'depthwise-first', 'layernorm'])
def test_stochastic_depth_drops_branches_of_samples(step):
    """With a rate of 1 the last block is its shortcut alone."""
    torch.manual_seed(0)
    model = Roadmap(step, depths=(1, 1, 1, 2), width=8, drop_path_rate=1.0).train()
    assert [block.drop_path.p for block in model.blocks()] == [0, 0.25, 0.5, 0.75, 1]
    last = list(model.blocks())[-1]
    x = torch.rand(4, model.design.expansion * 64, 4, 4)
    assert torch.equal(last(x), x)
    assert not torch.equal(last.eval()(x), x)


@pytest.mark.parametrize('step', ['resnet', 'separate-downsampling'])
def test_other_channels_take_rgb_weights(step, tmp_path):
    path = tmp_path / 'rgb.pth'
    torch.save(Roadmap(step, **SMALL).state_dict(), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    model = Roadmap(step, **SMALL, in_channels=6, init_cfg=init)
    model.init_weights()
    image = torch.randn(1, 3, 64, 64)
    plain = Roadmap(step, **SMALL, init_cfg=init)
    plain.init_weights()
    for one, other in zip(model.eval()(image.repeat(1, 2, 1, 1)), plain.eval()(image)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_output_norms_may_be_chosen():
    assert hasattr(Roadmap('gelu', **SMALL, output_norm=True), 'norm0')
    assert not hasattr(Roadmap('layernorm', **SMALL, output_norm=False), 'norm0')


def test_synchronised_norms_are_batch_norms_alone(monkeypatch):
    monkeypatch.setattr('backbones.roadmap.model.can_synchronise', lambda: True)
    for step, count in (('resnet', 5), ('fewer-norms', 5), ('layernorm', 0)):
        model = Roadmap(step, **SMALL, sync_bn=True)
        kinds = [type(m) for m in model.modules()]
        assert nn.BatchNorm2d not in kinds
        assert kinds.count(nn.SyncBatchNorm) >= count
        assert bool(count) == (nn.SyncBatchNorm in kinds)
