"""Everyday settings of a run: each changes everything in a config that depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from backbones.errors import ConfigError
from downstream.data.built import build_ahead
from downstream.data.pipelines import pipeline_switches, resized, steps_of_dataset
from downstream.quiet import without_coco_output

from .options.batch import recipe_batch, smallest_batch, state_batch
from .schedule.length import set_length

# A warm-up takes at most this share of a run.
_WARM_UP_SHARE = 0.1
# The figure that early stopping watches, by the scope of a config.
MONITORED = {'mmdet': 'coco/bbox_mAP', 'mmseg': 'mIoU'}
# That of an RPN alone, which has no average precision.
_MONITORED_PROPOSALS = 'coco/AR@1000'
# Parts of a config that hold sizes in pixels.
_SIZED = (
    'train_pipeline',
    'test_pipeline',
    'tta_pipeline',
    'crop_size',
    'image_scale',
    'image_size',
)
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def set_batch(cfg: Config, total: int, processes: int, scale_lr: bool = True) -> None:
    """Train on ``total`` images a step.

    The learning rate follows in proportion, from the batch that the recipe states
    (``auto_scale_lr.base_batch_size``). A run that is counted in iterations sees as many images as
    before, in more or fewer of them.

    Args:
        cfg: A config to train; changed in place.
        total: Images a step, of all processes together.
        processes: Their number.
        scale_lr: Whether the learning rate follows.

    Raises:
        ConfigError: The processes cannot share the batch evenly, or the config states no batch.
    """
    if total < 1 or total % processes:
        raise ConfigError(
            f'--batch-size {total}: it must be a multiple of the {processes} processes.'
        )
    if total < smallest_batch(cfg):
        raise ConfigError(
            f'--batch-size {total}: BatchNorm cannot learn from one image that was pooled to a point; '
            f'give at least {smallest_batch(cfg)}.'
        )
    former = recipe_batch(cfg, '--batch-size')
    cfg.train_dataloader.batch_size = total // processes
    if scale_lr:
        _use_rate(cfg, cfg.optim_wrapper.optimizer.lr * total / former)
    state_batch(cfg, total)
    if 'max_iters' in cfg.train_cfg:
        set_length(cfg, ceil(cfg.train_cfg.max_iters * former / total))


def set_epochs(cfg: Config, epochs: int, images: int, batch: int | None = None) -> None:
    """Train for ``epochs``; milestones, the end of decays and intervals move in proportion.

    Args:
        cfg: A config to train, with its final batch; changed in place.
        epochs: How often every image is seen.
        images: How many images there are.
        batch: Images a step, of all processes together; None: the batch that the learning rate of
            ``cfg`` is meant for.

    Raises:
        ConfigError: ``epochs`` is below 1, or ``batch`` is not given and ``cfg`` states none.
    """
    require_epochs(epochs)
    steps_per_epoch = ceil(images / (batch or recipe_batch(cfg, '--epochs')))
    steps = epochs * steps_per_epoch
    set_length(cfg, epochs if 'max_epochs' in cfg.train_cfg else steps, steps_per_epoch)
    limit_warm_up(cfg, steps)


def require_epochs(epochs: int) -> None:
    """ConfigError unless ``--epochs`` is at least 1."""
    if epochs < 1:
        raise ConfigError(f'--epochs {epochs}: give at least 1.')


def require_rate(rate: float) -> None:
    """ConfigError unless ``--lr`` is above 0."""
    if not rate > 0:
        raise ConfigError(f'--lr {rate}: give a number above 0.')


def longest_warm_up(steps: int) -> int:
    """The most steps that a warm-up may take of a run of ``steps``."""
    return max(1, int(steps * _WARM_UP_SHARE))


def limit_warm_up(cfg: Config, steps: int) -> None:
    """Shorten a warm-up that takes more than a tenth of ``steps``, the length of the run."""
    longest = longest_warm_up(steps)
    for scheduler in cfg.param_scheduler:
        if 'start_factor' in scheduler and not scheduler.get('by_epoch', True):
            # `end` is one past the last step.
            scheduler.end = min(scheduler.end, scheduler.get('begin', 0) + longest + 1)


def set_rate(cfg: Config, rate: float) -> None:
    """Train with the learning rate ``rate`` for the config's batch, whatever that is.

    Raises:
        ConfigError: It is not above 0.
    """
    require_rate(rate)
    _use_rate(cfg, rate)


def _use_rate(cfg: Config, rate: float) -> None:
    """Set the learning rate, and in proportion the rates that decays end with."""
    optimizer = cfg.optim_wrapper.optimizer
    for scheduler in cfg.get('param_scheduler') or ():
        if scheduler.get('eta_min'):
            scheduler.eta_min *= rate / optimizer.lr
    optimizer.lr = rate


def image_size(cfg: Config) -> int:
    """What ``--image-size`` stands for: the short side of a detector's test images, the crop of a
    segmenter or of pre-training.

    Raises:
        ConfigError: The config states none.
    """
    if cfg.default_scope in ('mmseg', 'mmengine'):
        key = 'crop_size' if cfg.default_scope == 'mmseg' else 'size'
        steps = steps_of_dataset(cfg.train_dataloader.dataset)
        sizes = [step[key] for step in steps if key in step]
    else:
        steps = steps_of_dataset(cfg.test_dataloader.dataset)
        sizes = [step['scale'] for step in steps if step['type'] == 'Resize' and 'scale' in step]
    if not sizes:
        raise ConfigError('--image-size: the pipelines of this config set no size of images.')
    size = sizes[0]
    return min(size) if isinstance(size, (list, tuple)) else size


def set_image_size(cfg: Config, size: int) -> None:
    """Train and test at ``size``: every scale and crop of the pipelines changes in proportion.

    Args:
        cfg: A complete config; changed in place.
        size: As in :func:`image_size`, in pixels.

    Raises:
        ConfigError: Training does not set the size of its images, or ``size`` is too small.
    """
    if size < 32:
        raise ConfigError(f'--image-size {size}: give at least 32 pixels.')
    factor = size / image_size(cfg)
    trained = cfg.train_dataloader.dataset
    if factor != 1 and resized(trained, factor) == trained:
        raise ConfigError(
            '--image-size: the training pipeline of this config does not set the size of images; add a '
            'Resize to it.'
        )
    sized = {key: cfg[key] for key in _SIZED if cfg.get(key) is not None}
    for key, value in resized(sized, factor).items():
        cfg[key] = value
    for key in _LOADERS:
        if cfg.get(key):
            cfg[key].dataset = resized(cfg[key].dataset, factor)
    for hook in pipeline_switches(cfg):
        hook.switch_pipeline = resized(hook.switch_pipeline, factor)
    for key, part in sized_parts(cfg.model, factor).items():
        cfg.model[key] = ConfigDict(part)


def sized_parts(model: Mapping, factor: float) -> dict[str, dict]:
    """Preprocessor and test of a model with their sizes times ``factor``, where they have any."""
    parts = {key: dict(model.get(key) or {}) for key in ('data_preprocessor', 'test_cfg')}
    return {
        key: changed for key, part in parts.items() if (changed := resized(part, factor)) != part
    }


def set_patience(cfg: Config, patience: int) -> None:
    """Stop a run when ``patience`` evaluations in a row have not improved its first figure.

    Raises:
        ConfigError: ``patience`` is below 1.
    """
    if patience < 1:
        raise ConfigError(f'--patience {patience}: give at least 1.')
    hook = patience_hook(cfg.default_scope, patience)
    evaluator = cfg.get('val_evaluator')
    if isinstance(evaluator, Mapping) and evaluator.get('metric') in (
        'proposal_fast',
        ['proposal_fast'],
    ):
        hook['monitor'] = _MONITORED_PROPOSALS
    cfg.default_hooks.patience = hook


def patience_hook(scope: str, patience: int) -> dict:
    """The config of the hook that stops a run early."""
    return dict(type='PatienceHook', monitor=MONITORED[scope], patience=patience)


def training_images(cfg: Config) -> int:
    """How many images the training set of ``cfg`` has, after its filters.

    Raises:
        ConfigError: The data set cannot be built.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope), without_coco_output():
        try:
            return len(build_ahead(cfg.train_dataloader.dataset))
        except (OSError, AssertionError) as error:
            raise ConfigError(f'the training images cannot be counted: {error}') from error
