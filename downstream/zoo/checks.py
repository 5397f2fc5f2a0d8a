"""What can be proven of a row before anyone spends a GPU-week on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isclose

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from backbones.errors import UserError, WeightsError
from backbones.weights.load import load_state

from . import complexity
from .rules import expected_rates
from .table import Row

# Images that training sees: those of train2017 with an annotation, and all of ADE20K's.
IMAGES = {'coco': 117_266, 'ade20k': 20_210}
# Both papers trained on nodes of this many GPUs.
GPUS = 8
_PUBLISHED = {
    '3x': {'epochs': 36, 'drops': [27, 33], 'batch': 16},
    '3x-frozen': {'epochs': 36, 'drops': [27, 33], 'batch': 16},
    '3x-lsj': {'epochs': 36, 'drops': [27, 33], 'batch': 32},
    '160k': {'iterations': 160_000, 'batch': 16},
    '40k-frozen': {'iterations': 40_000, 'batch': 16},
}


class MismatchError(Exception):
    """A recipe is not what it should be."""


def check_row(row: Row) -> dict[str, str]:
    """Check a row; the result of each check by title, starting with ``FAIL`` where it failed."""
    try:
        cfg = row.cfg
        model = complexity.build_on_meta(cfg)
    except UserError as error:
        return {'config': f'FAIL {error}'}
    results = {}
    for title, check in CHECKS.items():
        try:
            results[title] = check(row, cfg, model)
        except (MismatchError, UserError) as error:
            results[title] = f'FAIL {error}'
    return results


def _parameters(row: Row, cfg: Config, model: nn.Module) -> str:
    found = complexity.parameters(model)
    if found != row.params:
        raise MismatchError(f'{found:,}, not {row.params:,}')
    printed = row.printed.get('params')
    if printed is not None and round(found / 1e6) != printed:
        raise MismatchError(f'{found:,}, but {printed} M are printed')
    return f'{found:,}'


def _gmacs(row: Row, cfg: Config, model: nn.Module) -> str:
    found = complexity.gmacs(model, complexity.counted_size(cfg))
    if not isclose(found, row.gmacs, rel_tol=1e-3):
        raise MismatchError(f'{found:.2f}, not {row.gmacs}')
    printed = row.printed.get('gmacs')
    if printed is not None and round(found) != printed and not row.note:
        raise MismatchError(f'{found:.2f}, but {printed} are printed')
    return f'{found:.2f}'


def _rates(row: Row, cfg: Config, model: nn.Module) -> str:
    with DefaultScope.overwrite_default_scope(cfg.default_scope), _quiet():
        wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    expected = expected_rates(cfg, model)
    of = {
        id(parameter): (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    names = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    for name, key in names.items():
        if key not in of:
            raise MismatchError(f'{name} is in no group')
        for found, wanted, what in zip(of[key], expected[name], ('rate', 'weight decay')):
            if not isclose(found, wanted, rel_tol=1e-9, abs_tol=0):
                raise MismatchError(f'{what} of {name} is {found:g}, not {wanted:g}')
    return f'{len(names)} tensors, {len({of[key] for key in names.values()})} groups'


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables of parameter groups that a run would log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _weights(row: Row, cfg: Config, model: nn.Module) -> str:
    named = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if named != row.weights:
        raise MismatchError(f'the config starts from {named}, the row from {row.weights}')
    if named is None:
        return 'not released'
    with torch.device('meta'):
        published = type(model.backbone)(**_without_weights(cfg))
    # What is known of the file without opening it: the names and shapes of its layout's network.
    state = {
        k: v for k, v in published.state_dict().items() if not k.startswith(('norm', 'pyramid'))
    }
    state = {k.removeprefix('model.'): v for k, v in state.items()}
    try:
        report = load_state(published, state)
    except WeightsError as error:
        raise MismatchError(str(error).splitlines()[0]) from error
    return f'{named}, {len(report.loaded)} tensors'


def _without_weights(cfg: Config) -> dict:
    return {k: v for k, v in cfg.model.backbone.items() if k not in ('type', 'init_cfg')}


def _schedule(row: Row, cfg: Config, model: nn.Module) -> str:
    published = _PUBLISHED[row.schedule]
    batch = cfg.train_dataloader.batch_size * GPUS
    if not batch == published['batch'] == cfg.auto_scale_lr.base_batch_size:
        raise MismatchError(
            f'{batch} images a step on {GPUS} GPUs, {cfg.auto_scale_lr.base_batch_size} for scaling, '
            f'not {published["batch"]}'
        )
    last = cfg.param_scheduler[-1]
    if 'epochs' in published:
        found = (cfg.train_cfg.max_epochs, last.milestones)
        wanted = (published['epochs'], published['drops'])
    else:
        # a scheduler's `end` is one past its last step
        found = (cfg.train_cfg.max_iters, last.end - 1)
        wanted = (published['iterations'],) * 2
    if found != wanted:
        raise MismatchError(f'{found}, not {wanted}')
    return f'{iterations(row):,} steps of {batch}'


def iterations(row: Row, batch: int | None = None) -> int:
    """Optimizer steps of the published schedule, at its own batch or another."""
    published = _PUBLISHED[row.schedule]
    if 'iterations' in published:
        return published['iterations']
    return published['epochs'] * -(-IMAGES['coco'] // (batch or published['batch']))


CHECKS: dict[str, Callable[[Row, Config, nn.Module], str]] = {
    'parameters': _parameters,
    'GMACs': _gmacs,
    'rates': _rates,
    'weights': _weights,
    'schedule': _schedule,
}
