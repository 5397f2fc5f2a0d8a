"""A recipe's batch on fewer GPUs: gradients are accumulated, and what counts steps is adapted."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError

# OpenMMLab's names of recipes: 4xb2 is 4 processes with 2 images each.
_IN_A_NAME = re.compile(r'_(\d+)xb(\d+)(?=[-_.])')


def recipe_batch(cfg: Config, option: str) -> int:
    """The batch that the learning rate of ``cfg`` is meant for.

    mmseg's recipes say it in their names alone.

    Raises:
        ConfigError: The config does not say.
    """
    batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    named = _IN_A_NAME.search(Path(cfg.filename or '').name)
    if not batch and named:
        batch = int(named[1]) * int(named[2])
    if not batch:
        raise ConfigError(
            f'{option}: the config has no auto_scale_lr.base_batch_size, the batch that its learning '
            'rate is meant for.'
        )
    return batch


def state_batch(cfg: Config, batch: int) -> None:
    """Write into ``cfg`` for which batch its learning rate is meant."""
    cfg.auto_scale_lr = {**(cfg.get('auto_scale_lr') or {}), 'base_batch_size': batch}


# BatchNorm cannot learn from one image that was pooled to a point, as the pyramid of UperNet does.
_SMALLEST = {'mmdet': 1, 'mmseg': 2, 'mmengine': 1}


def smallest_batch(cfg: Config) -> int:
    """The fewest images a step that a model can learn from."""
    return _SMALLEST[cfg.default_scope]


def keep_batch(cfg: Config, processes: int) -> int:
    """Accumulate gradients in ``cfg`` up to the recipe's batch.

    Every ``n`` forward passes make one step of the optimizer. What counts iterations (schedules,
    length, validation and checkpoints where they go by iterations, EMAHook) takes ``n`` times as many,
    such that step ``i`` of the optimizer has the recipe's learning rate of step ``i``, and averaged
    weights are updated once per step.

    Args:
        cfg: A config to train; changed in place.
        processes: How many take part, each with ``train_dataloader.batch_size`` images.

    Returns:
        ``n``.

    Raises:
        ConfigError: The recipe's batch is not a multiple of the images of one pass, or EMAHook cannot
            count steps.
    """
    wanted, own = recipe_batch(cfg, '--keep-batch'), cfg.train_dataloader.batch_size
    count, rest = divmod(wanted, own * processes)
    if rest or not count:
        raise ConfigError(
            f'--keep-batch: the recipe has {wanted} images a step, which is no multiple of {own} images '
            f'in each of {processes} processes; change train_dataloader.batch_size, or take '
            '--auto-scale-lr.'
        )
    if count > 1:
        cfg.optim_wrapper.accumulative_counts = count
        _stretch(cfg, count)
    return count


def _stretch(cfg: Config, count: int) -> None:
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.max_iters *= count
        if 'val_interval' in cfg.train_cfg:
            cfg.train_cfg.val_interval *= count
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint')
    if checkpoint and not checkpoint.get('by_epoch', True):
        checkpoint.interval *= count
    for hook in cfg.get('custom_hooks') or []:
        if hook.get('type') == 'EMAHook':
            _stretch_ema(hook, count)
    for scheduler in cfg.param_scheduler:
        if scheduler.get('by_epoch', True):
            continue
        # The optimizer's step i comes after pass (i + 1) * count - 1: that pass must have its rate.
        scheduler.begin = scheduler.get('begin', 0) * count + count - 1
        if 'end' in scheduler:
            scheduler.end *= count
        if 'T_max' in scheduler:
            scheduler.T_max *= count
        if 'milestones' in scheduler:  # counted from `begin` on
            scheduler.milestones = [step * count for step in scheduler.milestones]


def _stretch_ema(hook: dict, count: int) -> None:
    """One update of the averaged weights per step of the optimizer, after its last pass.

    Up to ``begin_iter`` the average is a copy of the weights, from there on mmengine averages every
    ``interval`` passes.
    """
    kind = hook.get('ema_type', 'ExponentialMovingAverage')
    known = (
        'ExponentialMovingAverage',
        'ForeachExponentialMovingAverage',
        'StochasticWeightAverage',
        'MomentumAnnealingEMA',
    )
    if kind not in known or hook.get('begin_epoch'):
        raise ConfigError(
            f'--keep-batch: EMAHook with ema_type={kind!r}, begin_epoch={hook.get("begin_epoch", 0)} '
            f'counts passes, not steps of the optimizer. Take ema_type out of {", ".join(known)}, and '
            'begin_iter in the place of begin_epoch.'
        )
    hook['interval'] = hook.get('interval', 1) * count
    hook['begin_iter'] = max(hook.get('begin_iter', 0), 1) * count
    if kind == 'MomentumAnnealingEMA':
        hook['gamma'] = hook.get('gamma', 100) * count
