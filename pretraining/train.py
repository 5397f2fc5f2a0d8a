"""Pre-training: a recipe, folders of images and a command line's words in, an encoder's weights out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from backbones.convnext.visible import count_seen
from backbones.errors import ConfigError
from downstream.data.built import build_ahead
from downstream.distributed.processes import process_count
from downstream.running.compiler import require_writable_code
from downstream.running.config import TrainOptions, training_config
from downstream.running.runner import SuiteRunner
from downstream.running.train import build_runner

from .data import UnlabelledImages, check_images
from .fcmae import check_masking

# The word of --weights for a start from random ones.
FROM_RANDOM = 'none'


@dataclass
class PretrainOptions(TrainOptions):
    """What the command line of pre-training says.

    Attributes:
        data: Folders of images and others that :func:`.sources.images_of` takes; none: the config's.
    """

    scopes: ClassVar[tuple[str, ...]] = ('mmengine',)
    data: tuple[str, ...] = ()


def pretrain(options: PretrainOptions) -> SuiteRunner:
    """Pre-train as ``options`` say; the encoder, checkpoints, pictures and log go to the work dir.

    Returns:
        The runner, after the last epoch.

    Raises:
        UserError: Config, images or checkpoint cannot be used; nothing was written.
    """
    cfg = pretraining_config(options)
    _check_data(cfg, process_count(options.launcher))
    runner = build_runner(cfg)
    runner.train()
    return runner


def pretraining_config(options: PretrainOptions) -> Config:
    """A config that is complete to pre-train.

    Raises:
        ConfigError: A value or a combination is not possible.
    """
    given_batch(options)
    if options.data:
        # Before what depends on the number of images: --epochs.
        options.cfg_options = {
            'train_dataloader.dataset.sources': list(options.data),
            **options.cfg_options,
        }
    random = options.weights == FROM_RANDOM
    cfg = training_config(replace(options, weights=None) if random else options)
    if random:
        cfg.model.backbone.init_cfg = None
    if cfg.model.get('type') != 'FCMAE':
        raise ConfigError(f'config {options.config}: model.type must be FCMAE to pre-train.')
    check_crops(cfg)
    require_writable_code(cfg, 'pre-training')
    return cfg


def given_batch(options: PretrainOptions) -> int | None:
    """``--batch-size``; ConfigError where the batch is to be found by trial."""
    if isinstance(options.batch_size, str):
        raise ConfigError(
            '--batch-size auto is for detectors and segmenters; give a number of images.'
        )
    return options.batch_size


def check_crops(cfg: Config) -> None:
    """Raise a ConfigError unless the crops of ``cfg`` have cells to hide and others to see."""
    cell, mask_ratio = cfg.model.get('cell', 32), cfg.model.get('mask_ratio', 0.6)
    check_masking(cell, mask_ratio)
    for step in cfg.train_dataloader.dataset.get('pipeline', ()):
        if step.get('type') == 'RandomResizedCropFlip':
            size = step.get('size', 224)
            height, width = (size, size) if isinstance(size, int) else size
            count_seen(height, width, cell, mask_ratio)


def _check_data(cfg: Config, processes: int) -> None:
    """Raise a UserError unless the images of ``cfg`` can be trained on."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = build_ahead(cfg.train_dataloader.dataset)
    if not isinstance(dataset, UnlabelledImages):
        return
    batch = cfg.train_dataloader.batch_size * processes
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    check_images(paths, batch, cfg.model.get('cell', 32))
    advice = batch_advice(cfg, processes)
    if advice:
        print_log(advice, 'current', logging.WARNING)


def batch_advice(cfg: Config, processes: int) -> str | None:
    """What to do where the learning rate of ``cfg`` is meant for another batch than the run has."""
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = cfg.train_dataloader.batch_size * processes * counts
    scaled = cfg.get('auto_scale_lr') or {}
    meant = scaled.get('base_batch_size')
    if not meant or meant == batch or scaled.get('enable'):
        return None
    return (
        f'The learning rate is for batches of {meant} images; this run has {batch}. --auto-scale-lr '
        'scales the rate, --keep-batch keeps the batch.'
    )
