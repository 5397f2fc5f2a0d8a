"""The recipe that a run on one's own data derives from."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.paths import find_config, read_file
from downstream.running import settings
from downstream.running.options.batch import recipe_batch, smallest_batch, state_batch

from .fit import levels
from .images import training_images
from .schedule import RecipeSchedule, Schedule

# What `det` and `seg` stand for; `det` also for the other one, where there are no masks.
DEFAULTS = {
    'det': 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py',
    'seg': 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py',
}
BOXES_DEFAULT = 'configs/det/cascade-rcnn_convnext-tiny_in1k_3x_coco.py'
TASKS = {'det': 'detection', 'seg': 'segmentation'}


def recipe_file(name: str, boxes: bool = False) -> Path:
    """The config of a recipe.

    Args:
        name: ``'det'``, ``'seg'``, a row of the zoo or a config file.
        boxes: Whether ``'det'`` stands for a detector of boxes alone.

    Raises:
        ConfigError: There is none.
    """
    path = find_config(BOXES_DEFAULT if boxes and name == 'det' else DEFAULTS.get(name, name))
    if path is None:
        raise ConfigError(
            f'{name!r} is no recipe: give det, seg, a row of docs/model_zoo.md or a config file.'
        )
    return path.resolve()


def task_of_recipe(name: str) -> str:
    """``'detection'`` or ``'segmentation'``, whichever the recipe ``name`` is for.

    Raises:
        ConfigError: There is no such recipe.
    """
    scope = read_file(recipe_file(name), imports=False).get('default_scope')
    return 'segmentation' if scope == 'mmseg' else 'detection'


def read_schedule(cfg: Config) -> RecipeSchedule:
    """What the config of a recipe says of its schedule.

    Raises:
        ConfigError: It does not say for which batch its learning rate is, or how many images a process
            takes.
    """
    batch = recipe_batch(cfg, '--data')
    per_process = cfg.train_dataloader.get('batch_size')
    if not per_process:
        raise ConfigError(
            '--data: the config has no train_dataloader.batch_size; take another recipe.'
        )
    *outer, base = levels(cfg.train_dataloader.dataset)
    images = training_images(base, cfg.default_scope)
    loop = cfg.train_cfg
    if loop.get('max_epochs'):
        # An epoch of the recipe's may see its images several times.
        epochs = loop.max_epochs * math.prod(level.get('times', 1) for level in outer)
    else:
        epochs = loop.max_iters * batch / images
    warm_up = [
        scheduler.end - 1 - scheduler.get('begin', 0)
        for scheduler in cfg.param_scheduler
        if 'start_factor' in scheduler and not scheduler.get('by_epoch', True)
    ]
    return RecipeSchedule(
        images=images,
        epochs=epochs,
        batch=batch,
        batch_per_process=per_process,
        rate=cfg.optim_wrapper.optimizer.lr,
        warm_up=max(warm_up, default=0),
        smallest_batch=smallest_batch(cfg),
    )


def apply(chosen: Schedule, cfg: Config, images: int, processes: int) -> None:
    """Give ``cfg`` the schedule that was chosen for ``images`` training images."""
    cfg.train_dataloader.batch_size = int(chosen.batch.value) // processes
    state_batch(cfg, int(chosen.batch.value))
    settings.set_epochs(cfg, int(chosen.epochs.value), images)
    settings.set_rate(cfg, chosen.rate.value)
    unit = 1 if 'max_epochs' in cfg.train_cfg else chosen.steps_per_epoch
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval = (
        int(chosen.evaluate_every.value) * unit
    )
    if cfg.train_cfg.get('dynamic_intervals'):
        cfg.train_cfg.dynamic_intervals = None
    cfg.default_hooks.logger.interval = cfg.log_processor.window_size = chosen.log_every


def workers(processes: int, cores: int) -> tuple[int, str]:
    """Processes that load data for each process that trains, and why so many."""
    if torch.cuda.is_available():
        return max(1, min(4, cores // processes)), f'{cores} cores for {processes} processes'
    # They would take the cores that train.
    return 1, 'training takes the cores: there is no GPU'
