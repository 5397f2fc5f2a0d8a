"""A pre-training on images of one's own: from their number to a config; each choice is printed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from backbones.convnext.weight_names import (
    arch_of,
    decoder_size,
    describe,
    fcmae_decoder,
    translate,
)
from backbones.errors import ConfigError, WeightsError
from backbones.weights.download import local_file
from backbones.weights.load import is_non_commercial, read_pretrained
from backbones.weights.sources import find
from downstream.data.built import build_ahead
from downstream.distributed.processes import is_first_process, process_count
from downstream.own.leaf import Name, assignment, path_of_base, write
from downstream.own.recipe import workers
from downstream.own.schedule import Choice
from downstream.paths import find_config
from downstream.running import settings

from .by_size import WARM_UP, batch_for, epochs_for, rate_for, size_for
from .train import FROM_RANDOM, PretrainOptions, check_crops, given_batch

WORD = 'own'
_RECIPE = 'configs/pretrain/fcmae_convnextv2-{}_800e_in1k.py'
_SHOWN_STEPS, _LARGEST_LOG_INTERVAL, _PICTURES = 200, 50, 20


@dataclass(frozen=True)
class Start:
    """The network, and what it starts from.

    Attributes:
        arch: A size, or depths and dims.
        reason: Of the size.
        weights: A file or a name of the table; None: random.
        licence: Of what is trained from them.
        decoder: Channels and blocks of the decoder in the file; None: there is none.
    """

    arch: str | dict
    reason: str
    weights: str | None = None
    licence: str = 'your own'
    decoder: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """What was decided for a run.

    Attributes:
        sources: What the images come from.
        images: Their number.
        recipe: The config that is inherited.
        cfg: That config with what was chosen.
        start: Network and weights.
        batch: Images a step, of all processes.
        epochs: Their number.
        rate: Learning rate.
        loaders: Processes that load images, for each that trains.
        work_dir: Of the run.
    """

    sources: list[str]
    images: int
    recipe: Path
    cfg: Config
    start: Start
    batch: Choice
    epochs: Choice
    rate: Choice
    loaders: tuple[int, str]
    work_dir: Path

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return int(self.epochs.value) * (self.images // int(self.batch.value))


def prepare(options: PretrainOptions) -> PretrainOptions:
    """Write a config for the images of ``options``, and say what is in it.

    Every process of a run does this and writes the same file.

    Args:
        options: The command line; its ``config`` is ``'own'``.

    Returns:
        The options that train the config.

    Raises:
        UserError: Images, weights or an option are not possible; nothing was written.
    """
    if not options.data:
        raise ConfigError(
            'own is for images of your own: name their folders, --data DIR [DIR ...].'
        )
    plan = _plan(options)
    config = plan.work_dir / f'{plan.work_dir.resolve().name}.py'
    write(config, config_text(plan, config))
    if is_first_process():
        print('\n'.join(_summary(plan, config)), flush=True)
    return replace(
        options,
        config=str(config),
        work_dir=str(plan.work_dir),
        data=(),
        # They are in the config.
        epochs=None,
        lr=None,
        batch_size=None,
        image_size=None,
        weights=None,
    )


def _plan(options: PretrainOptions) -> Plan:
    given = given_batch(options)
    sources = [os.path.abspath(s) if Path(s).exists() else s for s in options.data]
    cfg = _read_recipe('atto')[1]
    if options.image_size is not None:
        settings.set_image_size(cfg, options.image_size)
        check_crops(cfg)
    cfg.train_dataloader.dataset.sources = sources
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        images = len(build_ahead(cfg.train_dataloader.dataset))
    start = _start(options, images)
    dataset = cfg.train_dataloader.dataset
    recipe, cfg = _read_recipe(start.arch if isinstance(start.arch, str) else 'atto')
    cfg.train_dataloader.dataset = dataset
    processes = process_count(options.launcher)
    batch = batch_for(images, processes, cfg.train_dataloader.batch_size, given)
    epochs = epochs_for(images, start.weights is not None, options.epochs)
    base = cfg.auto_scale_lr.base_batch_size
    rate = rate_for(int(batch.value), cfg.optim_wrapper.optimizer.lr, base, options.lr)
    _apply(cfg, images, processes, int(batch.value), int(epochs.value), rate.value)
    return Plan(
        sources=sources,
        images=images,
        recipe=recipe,
        cfg=cfg,
        start=start,
        batch=batch,
        epochs=epochs,
        rate=rate,
        loaders=workers(processes, os.cpu_count() or 1),
        work_dir=Path(options.work_dir or f'work_dirs/{_name(recipe, sources)}'),
    )


def _read_recipe(size: str) -> tuple[Path, Config]:
    path = find_config(_RECIPE.format(size))
    if path is None:
        raise ConfigError(f'own: ConvNeXt V2 has no size {size!r} to pre-train.')
    return path.resolve(), Config.fromfile(path)


def _start(options: PretrainOptions, images: int) -> Start:
    """The network for ``images`` images and its weights: the given ones, or the released ones.

    Raises:
        WeightsError: The weights cannot be had or are no ConvNeXt V2's.
    """
    size, reason = size_for(images)
    wanted = options.cfg_options.get('model.backbone.arch')
    if isinstance(wanted, str):
        size, reason = wanted, 'given'
    if options.weights == FROM_RANDOM:
        return Start(size, reason)
    if options.weights is not None:
        return _start_of_file(options.weights)
    _read_recipe(size)
    name = f'convnextv2-{size}_fcmae'
    try:
        local_file(find(name))
    except WeightsError as error:
        raise WeightsError(
            f'{str(error).rstrip(".")}. own starts from released weights; --weights FILE starts from '
            f'others, --weights {FROM_RANDOM} from random ones.'
        ) from error
    return Start(size, reason, name, find(name).licence)


def _start_of_file(name: str) -> Start:
    state, licence = read_pretrained(name)
    found = translate(state)
    arch, known = arch_of(found.tensors), describe(found.tensors) or ''
    family, _, size = known.partition(' ')
    if arch is None or family != 'ConvNeXtV2':
        raise WeightsError(
            f'{name} is {known or "no ConvNeXt"}; own pre-trains ConvNeXt V2. For V1 name a recipe: '
            'configs/pretrain/fcmae_convnext-base_800e_in1k.py.'
        )
    decoder = fcmae_decoder(state, found)
    return Start(
        dict(depths=arch.depths, dims=arch.dims) if ' ' in size else size,
        f'that of {name}',
        os.path.abspath(name) if Path(name).is_file() else name,
        licence,
        decoder_size(decoder) if decoder else None,
    )


def _apply(cfg: Config, images: int, processes: int, batch: int, epochs: int, rate: float) -> None:
    """Give the recipe ``cfg`` the schedule that was chosen."""
    cfg.train_dataloader.batch_size = batch // processes
    cfg.auto_scale_lr.base_batch_size = batch
    settings.set_epochs(cfg, epochs, images)
    settings.set_rate(cfg, rate)
    (scheduler,) = cfg.param_scheduler
    scheduler.warm_up = round(WARM_UP * epochs, 3)
    cfg.default_hooks.reconstructions.interval = max(1, epochs // _PICTURES)
    steps = epochs * (images // batch)
    interval = max(1, min(_LARGEST_LOG_INTERVAL, steps // _SHOWN_STEPS))
    cfg.default_hooks.logger.interval = cfg.log_processor.window_size = interval


def config_text(plan: Plan, config: Path) -> str:
    """The config ``config``: the recipe, and what differs from it with its reason."""
    cfg, start = plan.cfg, plan.start
    hooks = {
        name: dict(interval=cfg.default_hooks[name].interval)
        for name in ('logger', 'checkpoint', 'reconstructions')
    }
    pipeline = [step.to_dict() for step in cfg.train_dataloader.dataset.pipeline]
    count, why = plan.loaders
    return (
        f"# {plan.recipe.stem} on {plan.images:,} images of one's own.\n"
        f'# Edit it and train with it: python tools/pretrain.py {config}\n'
        f'_base_ = {path_of_base(plan.recipe, config)!r}\n\n'
        f'work_dir = {str(plan.work_dir)!r}\n'
        + assignment('model', _model(start), *_reasons(start))
        + assignment('train_pipeline', pipeline)
        + assignment(
            'train_dataloader',
            dict(
                batch_size=cfg.train_dataloader.batch_size,
                num_workers=count,
                persistent_workers=count > 0,
                dataset=dict(sources=plan.sources, pipeline=Name('train_pipeline')),
            ),
            f'Batch: {plan.batch.value} images, {plan.batch.reason}. Workers: {why}.',
        )
        + assignment(
            'train_cfg',
            dict(max_epochs=cfg.train_cfg.max_epochs),
            f'Length: {plan.epochs.value} epochs ({plan.epochs.reason}), {plan.steps:,} steps.',
        )
        + assignment(
            'optim_wrapper',
            dict(optimizer=dict(lr=cfg.optim_wrapper.optimizer.lr)),
            f'Learning rate: {plan.rate.reason}.',
        )
        + assignment('auto_scale_lr', dict(base_batch_size=cfg.auto_scale_lr.base_batch_size))
        + assignment(
            'param_scheduler',
            [s.to_dict() for s in cfg.param_scheduler],
            f'Warm-up: a {round(1 / WARM_UP)}th of the run, as in 800 epochs.',
        )
        + assignment('default_hooks', hooks)
        + assignment('log_processor', dict(window_size=cfg.log_processor.window_size))
    )


def _model(start: Start) -> dict:
    backbone: dict = {}
    if not isinstance(start.arch, str):
        # A dict cannot replace the recipe's name of a size.
        backbone = dict(_delete_=True, type='ConvNeXtV2', arch=start.arch, drop_path_rate=0.0)
    weights = start.weights and dict(type='Pretrained', checkpoint=start.weights)
    backbone['init_cfg'] = weights
    model: dict = dict(backbone=backbone)
    if start.decoder:
        model |= dict(decoder_dim=start.decoder[0], decoder_depth=start.decoder[1])
    return model


def _reasons(start: Start) -> list[str]:
    size = start.arch if isinstance(start.arch, str) else 'of its own'
    lines = [f'Size: {size}, {start.reason}.']
    if start.weights is None:
        return [
            *lines,
            f'Start: random weights (--weights {FROM_RANDOM}). Licence: {start.licence}.',
        ]
    what = 'encoder and decoder' if start.decoder else 'the encoder; the decoder is random'
    restricted = ' - NON-COMMERCIAL use only' if is_non_commercial(start.licence) else ''
    return [
        *lines,
        f'Start: {start.weights}, {what}. Licence, inherited: {start.licence}{restricted}.',
    ]


def _name(recipe: Path, sources: Sequence[str]) -> str:
    """Of a run: method, backbone and images."""
    folders = [Path(source) for source in sources]
    names = [folder.name if folder.is_dir() else folder.stem for folder in folders]
    return re.sub(r'[^\w.-]+', '-', '_'.join([*recipe.stem.split('_')[:2], *names]))


def _summary(plan: Plan, config: Path) -> list[str]:
    """Every decision, a line each."""
    size, start = (line.partition(': ')[2] for line in _reasons(plan.start))
    lines = [
        ('images', f'{plan.images:,}'),
        ('network', f'ConvNeXt V2, {size}'),
        ('start', start),
        ('length', f'{plan.epochs.value} epochs: {plan.epochs.reason}; {plan.steps:,} steps'),
        ('batch', f'{plan.batch.value}: {plan.batch.reason}'),
        ('rate', f'{plan.rate.value:g}: {plan.rate.reason}'),
        ('config', f'{config}, to read, edit and train again'),
    ]
    if not torch.cuda.is_available():
        lines.append(('device', 'the CPU; --epochs and --image-size make a run shorter'))
    return [f'{name:>12}  {text}' for name, text in lines]
