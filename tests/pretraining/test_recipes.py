"""Recipes of pre-training: the paper's rate at every step, and what decays."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from torch import nn

from backbones.errors import ConfigError
from downstream.running import settings
from tests.conftest import ROOT

LEAVES = sorted((ROOT / 'configs' / 'pretrain').glob('*.py'))
ATTO = ROOT / 'configs' / 'pretrain' / 'fcmae_convnextv2-atto_800e_in1k.py'


def released_rate(progress: float, base: float, warm_up: float, epochs: float) -> float:
    """The released code's rate after ``progress`` epochs, parts of them included."""
    if progress < warm_up:
        return base * progress / warm_up
    return base * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (epochs - warm_up)))


def rates(cfg: Config, steps_per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    (one,) = cfg.param_scheduler
    defaults = {'optimizer': optimizer, 'epoch_length': steps_per_epoch}
    scheduler = PARAM_SCHEDULERS.build(dict(one), default_args=defaults)
    found = []
    for _ in range(cfg.train_cfg.max_epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return found


def names(path) -> str:
    return path.stem


@pytest.mark.parametrize('path', LEAVES, ids=names)
def test_is_complete_and_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
    family, size = path.stem.split('_')[1].split('-')
    assert cfg.model.backbone.arch == size
    assert any('.grn.' in name for name, _ in model.named_parameters()) == (family == 'convnextv2')
    if 'shapes' not in path.stem:
        assert cfg.optim_wrapper.optimizer.to_dict() == {
            'type': 'AdamW',
            'lr': pytest.approx(2.4e-3),
            'betas': (0.9, 0.95),
            'weight_decay': 0.05,
        }
        assert cfg.auto_scale_lr.base_batch_size == 4096
        assert f'_{cfg.train_cfg.max_epochs}e_' in path.stem


@pytest.mark.parametrize('epochs', [800, 1600])
def test_every_step_has_the_released_rate(epochs):
    stem = f'fcmae_convnextv2-base_{epochs}e_in1k.py'
    cfg = Config.fromfile(ATTO.with_name(stem))
    steps = 3
    expected = [released_rate(i / steps, 2.4e-3, 40, epochs) for i in range(epochs * steps)]
    found = rates(cfg, steps)
    assert found[0] == 0
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_other_epochs_keep_the_form_of_the_schedule():
    cfg = Config.fromfile(ATTO)
    cfg.auto_scale_lr.base_batch_size = 10
    settings.set_epochs(cfg, 10, 40)
    assert cfg.train_cfg.max_epochs == 10
    expected = [released_rate(i / 4, 2.4e-3, 0.5, 10) for i in range(40)]
    assert rates(cfg, 4) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_a_warm_up_as_long_as_the_run_is_refused():
    cfg = Config.fromfile(ATTO)
    cfg.param_scheduler[0].warm_up = 800
    with pytest.raises(ConfigError, match='warm_up=2400.*below end=2400'):
        rates(cfg, 3)


@pytest.mark.parametrize('version', ['ConvNeXt', 'ConvNeXtV2'])
def test_what_decays_is_what_the_released_code_lets_decay(version):
    cfg = Config.fromfile(ATTO)
    cfg.model.backbone = dict(type=version, arch=dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10)))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        name_of[id(p)]: group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert decays.keys() == set(name_of.values())

    def released(name: str) -> float:
        layer = name.split('.')[-2:]
        if layer[-1] == 'bias' or 'norm' in layer[0]:
            return 0.0
        if name.startswith(
            'encoder.downsample_layers'
        ):  # stem: convolution, norm; then the reverse
            *_, place, part, _ = name.split('.')
            return 0.0 if (place == '0') == (part == '1') else 0.05
        is_layer_scale = layer[-1] == 'gamma' and layer[0] != 'grn'
        return 0.0 if is_layer_scale else 0.05

    assert decays == {name: released(name) for name in decays}
    assert decays['mask_token'] == 0.05
    if version == 'ConvNeXtV2':
        assert decays['encoder.stages.0.0.grn.beta'] == 0.05
