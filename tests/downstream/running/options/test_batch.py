"""The recipe's batch on fewer GPUs: the optimizer's steps have the rates that they have on eight."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from torch import nn

from backbones import ConfigError
from downstream.running.checkpoint.read import read
from downstream.running.options.batch import keep_batch
from tests.conftest import ROOT, write_tiny_config

RECIPES = {
    'upernet': 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py',
    'shapes': 'configs/seg/upernet_convnext-atto_shapes.py',
    'cascade': 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py',
}


def rates(cfg: Config, steps: int) -> list[float]:
    """The rate at each of the optimizer's first steps."""
    count = cfg.optim_wrapper.get('accumulative_counts', 1)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    wrapper = OptimWrapper(optimizer, accumulative_counts=count)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]['lr']))
    schedulers = [
        PARAM_SCHEDULERS.build(dict(s), default_args={'optimizer': optimizer})
        for s in cfg.param_scheduler
        if not s.get('by_epoch', True)
    ]
    for _ in range(steps * count):
        wrapper.update_params(parameter.sum() * 0)
        for scheduler in schedulers:
            scheduler.step()
    return seen


@pytest.mark.parametrize('name', RECIPES)
@pytest.mark.parametrize('processes', [1, 4])
def test_every_step_has_its_rate(name, processes):
    published, ours = (Config.fromfile(ROOT / RECIPES[name]) for _ in range(2))
    count = keep_batch(ours, processes)
    assert count == 16 // (processes * ours.train_dataloader.batch_size)
    found = rates(ours, 600 if name != 'shapes' else 300)
    assert len(found) == (600 if name != 'shapes' else 300)
    assert found == pytest.approx(rates(published, len(found)), rel=1e-6)


def test_a_cosine_in_steps_has_its_rates():
    published, ours = (Config.fromfile(ROOT / RECIPES['shapes']) for _ in range(2))
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=60, T_max=50, eta_min=0.1)
    for cfg in (published, ours):
        cfg.param_scheduler = [dict(cosine)]
    assert keep_batch(ours, 1) > 1
    assert rates(ours, 60) == pytest.approx(rates(published, 60), rel=1e-6)


def test_what_counts_iterations_takes_more_of_them():
    published, ours = (Config.fromfile(ROOT / RECIPES['upernet']) for _ in range(2))
    assert keep_batch(ours, 2) == 4
    assert ours.train_cfg.max_iters == 4 * published.train_cfg.max_iters
    assert ours.train_cfg.val_interval == 4 * published.train_cfg.val_interval
    assert ours.default_hooks.checkpoint.interval == 4 * published.default_hooks.checkpoint.interval
    assert ours.optim_wrapper.optimizer == published.optim_wrapper.optimizer


def test_epochs_stay_epochs():
    published, ours = (Config.fromfile(ROOT / RECIPES['cascade']) for _ in range(2))
    keep_batch(ours, 1)
    assert ours.train_cfg == published.train_cfg
    assert ours.default_hooks == published.default_hooks
    assert ours.param_scheduler[1] == published.param_scheduler[1]


def test_the_published_number_of_gpus_changes_nothing():
    published, ours = (Config.fromfile(ROOT / RECIPES['upernet']) for _ in range(2))
    assert keep_batch(ours, 8) == 1
    assert ours.to_dict() == published.to_dict()


@pytest.mark.parametrize('processes', [3, 16])
def test_a_batch_that_cannot_be_kept_is_an_error(processes):
    with pytest.raises(ConfigError, match='no multiple of 2 images in each of'):
        keep_batch(Config.fromfile(ROOT / RECIPES['cascade']), processes)


def test_the_command_line_accumulates(tool, shapes, tmp_path):
    """Two passes of two images make one step of four."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    with open(config, 'a') as file:
        file.write('auto_scale_lr = dict(base_batch_size=4)\ntrain_cfg.update(max_iters=1)\n')
    assert tool('train', config, '--work-dir', tmp_path / 'a', '--keep-batch').code == 0
    assert (tmp_path / 'a' / 'iter_2.pth').is_file()
    dumped = Config.fromfile(tmp_path / 'a' / 'segmentation.py')
    assert dumped.optim_wrapper.accumulative_counts == 2
    result = tool('train', config, '--keep-batch', '--auto-scale-lr')
    assert result.code == 2
    assert 'leave --auto-scale-lr out' in result.err


def test_scaling_the_rate_keeps_the_ratios_of_layer_decay(tool, shapes, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    with open(config, 'a') as file:
        file.write('optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.5))\n')
    result = tool('train', config, '--work-dir', tmp_path / 'run', '--auto-scale-lr')
    assert result.code == 0, result.err
    cfg = Config.fromfile(tmp_path / 'run' / 'detection.py')
    factor = cfg.train_dataloader.batch_size / cfg.auto_scale_lr.base_batch_size
    assert factor == 1 / 8
    groups = read(tmp_path / 'run' / 'epoch_1.pth')['optimizer']['param_groups']
    assert len({group['lr_scale'] for group in groups}) == 7
    for group in groups:
        expected = cfg.optim_wrapper.optimizer.lr * factor * group['lr_scale']
        assert group['initial_lr'] == pytest.approx(expected)


class Steps:
    """What EMAHook reads of a runner."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.iter, self.epoch = model, 0, 0
        self.max_iters, self.max_epochs = 1000, 1


def averaged(hook_cfg: dict, count: int, steps: int) -> list[float]:
    """The averaged weight after each step, whose weights are 1, 2, 3, ..., in ``count`` passes each."""
    model = nn.Linear(1, 1, bias=False).requires_grad_(False)
    model.weight.zero_()
    runner, hook, seen = Steps(model), HOOKS.build(dict(hook_cfg)), []
    hook.before_run(runner)
    hook.before_train(runner)
    for step in range(steps):
        for _ in range(count - 1):
            hook.after_train_iter(runner, 0)
            runner.iter += 1
        model.weight.fill_(step + 1)
        hook.after_train_iter(runner, 0)
        runner.iter += 1
        seen.append(float(hook.ema_model.module.weight))
    return seen


@pytest.mark.parametrize(
    'ema',
    [
        dict(momentum=0.1),
        dict(momentum=0.1, interval=3),
        dict(momentum=0.1, begin_iter=4),
        dict(momentum=0.001, gamma=5, ema_type='MomentumAnnealingEMA'),
        dict(ema_type='StochasticWeightAverage'),
    ],
)
def test_averaged_weights_forget_as_fast_as_published(ema):
    published = averaged(dict(type='EMAHook', **ema), 1, 12)
    cfg = Config.fromfile(ROOT / RECIPES['upernet'])
    cfg.custom_hooks = [dict(type='EMAHook', **ema)]
    count = keep_batch(cfg, 2)
    assert averaged(cfg.custom_hooks[0], count, 12) == pytest.approx(published, rel=1e-6)


@pytest.mark.parametrize('ema', [dict(begin_epoch=2), dict(ema_type='ExpMomentumEMA')])
def test_averages_that_cannot_count_steps_are_an_error(ema):
    cfg = Config.fromfile(ROOT / RECIPES['upernet'])
    cfg.custom_hooks = [dict(type='EMAHook', **ema)]
    with pytest.raises(ConfigError, match='counts passes, not steps'):
        keep_batch(cfg, 2)
