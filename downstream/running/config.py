"""From a config file and the words of a command line to a complete mmengine config."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.utils import import_modules_from_strings

from backbones import ConvNeXt, ConvNeXtV2
from backbones.errors import ConfigError, WeightsError
from backbones.names import import_from_here
from backbones.weights.sources import find as find_weights
from backbones.weights.sources import weights_table
from downstream.data.pipelines import flip_tta_pipeline
from downstream.distributed.processes import is_first_process, process_count, was_restarted
from downstream.exporting.files import is_exported
from downstream.operators.sync_bn import use_torch_sync_bn
from downstream.paths import CONFIGS, configs_of, find_config, read_file
from downstream.tiles.config import use_tiles
from downstream.tiles.windows import Tiling

from . import settings
from .checkpoint.locate import local_checkpoint
from .checkpoint.read import read
from .optimizer_kernels import fuse_on_cuda_alone
from .options import overrides
from .options.batch import keep_batch, recipe_batch, state_batch
from .options.batch_probe import largest_batch
from .options.channels import chosen_bands, set_tested_statistics, use_bands
from .options.log_to import add_loggers, drop_loggers
from .options.precision import require_usable_gpu, set_precision
from .stock.hooks import use_safe_hooks
from .stock.parts import (
    leave_out_whole_model,
    use_decoder_of_file,
    use_predicting_heads,
    use_proposal_recall,
)

# What a runner that tests has no use for: the training data need not even be there.
_TRAINING_KEYS = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'val_dataloader',
    'val_cfg',
    'val_evaluator',
)
_SCOPES = {'mmdet': 'detection', 'mmseg': 'segmentation'}
_PRETRAINING = 'mmengine'


@dataclass
class RunOptions:
    """What the command lines of training and testing share.

    ``channels`` and ``bands``: images that are not 8-bit RGB; see :mod:`.options.channels`.
    """

    config: str
    work_dir: str | None = None
    cfg_options: dict = field(default_factory=dict)
    launcher: str = 'none'
    backbone: str | None = None
    channels: int | None = None
    bands: tuple[int, ...] | None = None
    #: What ``default_scope`` a config may have.
    scopes: ClassVar[tuple[str, ...]] = tuple(_SCOPES)


@dataclass
class TrainOptions(RunOptions):
    """What the command line of training says.

    Attributes:
        amp: None, 'auto', 'fp16' or 'bf16'.
        resume: None, 'auto' or a path.
        auto_scale_lr: Scale the learning rate to a batch that the config changes.
        keep_batch: Accumulate gradients up to the recipe's batch.
        start_from: A trained model, possibly of other classes.
        weights: Of the backbone alone, as its ``init_cfg`` names them.
        epochs: How often every image is seen.
        lr: Learning rate for the run's own batch.
        batch_size: Images a step, of all processes together, or 'auto': as many as fit.
        image_size: See :func:`.settings.image_size`.
        patience: Evaluations without improvement after which the run stops.
        log_to: Loggers by name; see :mod:`.options.log_to`.
    """

    amp: str | None = None
    resume: str | None = None
    auto_scale_lr: bool = False
    keep_batch: bool = False
    start_from: str | None = None
    weights: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | Literal['auto'] | None = None
    image_size: int | None = None
    patience: int | None = None
    log_to: tuple[str, ...] = ()


@dataclass
class TestOptions(RunOptions):
    """What the command line of testing says.

    Attributes:
        checkpoint: What is tested.
        out: A folder or a .pkl file for predictions.
        show: Show pictures in windows.
        show_dir: A folder for pictures.
        wait_time: Seconds a window is shown.
        tta: Test-time augmentation.
        tile: Side in pixels of the tiles that larger pictures are tested in; None: whole pictures.
        overlap: As in :class:`downstream.tiles.windows.Tiling`; None: its default.
    """

    checkpoint: str = ''
    out: str | None = None
    show: bool = False
    show_dir: str | None = None
    wait_time: float = 2.0
    tta: bool = False
    tile: int | None = None
    overlap: float | None = None


def read_config(options: RunOptions) -> Config:
    """The config file with the command line's changes, its backbone and its work dir.

    Raises:
        ConfigError: There is no such file, it cannot be read, it is neither detection nor
            segmentation, or its backbone cannot be dropped in.
        WeightsError: There are no such weights of the backbone.
    """
    path = find_config(options.config)
    if path is None:
        missing = options.config
        raise ConfigError(f'config {missing} does not exist.' + _nearest_config(missing))
    cfg = read_file(path, imports=not options.backbone)
    import_from_here()  # a type may stand there by its full path, `my_module.MyBackbone`
    stem = path.stem
    _set_channels(cfg, options)
    if options.backbone:
        stem = _put_backbone(cfg, options.backbone, options, stem)
    use_safe_hooks(cfg)
    if isinstance(cfg.get('param_scheduler'), dict):  # mmengine takes one without a list, too
        cfg.param_scheduler = [cfg.param_scheduler]
    overrides.merge(cfg, options.cfg_options)
    if not isinstance(options, TrainOptions):
        drop_loggers(cfg)
    overrides.check_values(cfg)
    use_torch_sync_bn(cfg.get('model'))
    use_predicting_heads(cfg)
    use_proposal_recall(cfg)
    _check_scope(cfg, path, options.scopes)
    use_bands(cfg, keep_statistics='model.data_preprocessor.mean' in options.cfg_options)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(loader) and not cfg[loader].get('num_workers'):
            # torch refuses workers that persist where there are none.
            cfg[loader].persistent_workers = False
    cfg.launcher = options.launcher
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or f'work_dirs/{stem}'
    return cfg


def _check_scope(cfg: Config, path: Path, scopes: Sequence[str]) -> None:
    """ConfigError unless ``cfg`` is of the kind that a tool runs."""
    scope = cfg.get('default_scope')
    if scope in scopes:
        return
    if scope == _PRETRAINING and cfg.get('model', {}).get('type') == 'FCMAE':
        raise ConfigError(f'config {path} pre-trains: python tools/pretrain.py {path} --data DIR.')
    kinds = {'mmdet': 'detection', 'mmseg': 'segmentation', _PRETRAINING: 'pre-training'}
    wanted = ' or '.join(f'{name} ({kinds[name]})' for name in scopes)
    raise ConfigError(f'config {path}: default_scope={scope!r}; it must be {wanted}.')


def _set_channels(cfg: Config, options: RunOptions) -> None:
    """Write the command line's ``channels`` and ``bands`` into ``cfg``; bands win over its channels."""
    given = {
        key: options.cfg_options[key] for key in ('channels', 'bands') if key in options.cfg_options
    }
    given |= {key: getattr(options, key) for key in ('channels', 'bands') if getattr(options, key)}
    if 'bands' in given and 'channels' not in given:
        cfg.pop('channels', None)
    cfg.merge_from_dict(given)


def _put_backbone(cfg: Config, backbone: str, options: RunOptions, stem: str) -> str:
    """Drop a backbone into ``cfg``, say what came of it, and name the run after it."""
    from downstream.drop_in.apply import drop_in

    # What the user sets of the backbone decides how many channels it has.
    start = 'model.backbone.'
    own = {k.removeprefix(start): v for k, v in options.cfg_options.items() if k.startswith(start)}
    arguments = Config()
    arguments.merge_from_dict(own)
    bands = chosen_bands(cfg)
    if bands and len(bands) != 3:
        arguments.in_channels = len(bands)
    weights = getattr(options, 'weights', None)
    if weights:
        # They decide what of the backbone trains; those that its name stands for win in the report.
        arguments.init_cfg = _init_cfg_of(weights)
    former = _name_of_backbone(cfg.model.get('backbone') or {})
    _import_without_the_old_backbone(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        report = drop_in(cfg, backbone, **arguments.to_dict())
    # That of a config of one's own may have the new backbone.
    left = leave_out_whole_model(cfg) if '::' in str(options.config) else []
    # A work dir that a config names is for the config's own backbone.
    cfg.pop('work_dir', None)
    name = re.sub(r'[^\w.-]+', '-', backbone)
    stem = stem.replace(former, name) if former and former in stem else f'{stem}_{name}'
    if is_first_process():
        lines = [report, *_start_in_words(options, cfg), *map(_left_in_words, left)]
        print(*lines, f'{"work dir":>12}  {options.work_dir or f"work_dirs/{stem}"}', sep='\n')
    return stem


def _left_in_words(checkpoint: str) -> str:
    return f'{"left out":>12}  {checkpoint}, a whole model with the backbone that is replaced'


def _start_in_words(options: RunOptions, cfg: Config) -> list[str]:
    """What takes the place of the weights that ``cfg`` has of its backbone."""
    from downstream.drop_in.stock import inner_model

    own = (inner_model(cfg.model).backbone.get('init_cfg') or {}).get('checkpoint')
    given = {'weights': '--weights', 'start_from': '--from', 'checkpoint': 'the checkpoint'}
    sources = [(getattr(options, name, None), word) for name, word in given.items()]
    return [
        f'{"start":>12}  {source} ({word}), in the place of these weights'
        for source, word in sources
        if source and source != own
    ]


def _import_without_the_old_backbone(cfg: Config) -> None:
    """Import what ``cfg`` asks for, except a missing package of the backbone that is replaced.

    Raises:
        ConfigError: Something else cannot be imported.
    """
    wanted = cfg.get('custom_imports') or {}
    modules = wanted.get('imports') or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    package = str((cfg.model.get('backbone') or {}).get('type')).partition('.')[0]
    if any(module.partition('.')[0] == package for module in modules) and not find_spec(package):
        modules = [module for module in modules if module.partition('.')[0] != package]
        cfg.custom_imports = ConfigDict(wanted, imports=modules)
    try:
        import_modules_from_strings(
            modules, allow_failed_imports=wanted.get('allow_failed_imports', False)
        )
    except ImportError as error:
        raise ConfigError(
            f'custom_imports of the config: {error}; is its folder on PYTHONPATH?'
        ) from error


def _name_of_backbone(backbone: dict) -> str | None:
    """What the file of a config calls the backbone in it."""
    checkpoint = (backbone.get('init_cfg') or {}).get('checkpoint') or ''
    if checkpoint in weights_table():
        return checkpoint
    families = {cls.__name__: cls.family for cls in (ConvNeXt, ConvNeXtV2)}
    family, arch = families.get(backbone.get('type')), backbone.get('arch')
    return f'{family}-{arch}' if family and isinstance(arch, str) else None


def task_of(cfg: Config) -> str:
    """``'detection'`` or ``'segmentation'``."""
    return _SCOPES[cfg.default_scope]


def training_config(options: TrainOptions) -> Config:
    """A config that is complete to train.

    Raises:
        ConfigError: A value or a combination is not possible.
        WeightsError: The checkpoint to resume from cannot be used.
    """
    require_usable_gpu()
    cfg = read_config(options)
    add_loggers(cfg, options.log_to)
    set_precision(cfg, options.amp)
    fuse_on_cuda_alone(cfg)
    resume = options.resume or ('auto' if was_restarted() else None)
    if resume:
        _resume(cfg, resume)
    _set_weights(cfg, options)
    _start_from(cfg, options)
    _apply_settings(cfg, options)
    if options.auto_scale_lr:
        state_batch(cfg, recipe_batch(cfg, '--auto-scale-lr'))
        cfg.auto_scale_lr.enable = True
    if options.keep_batch:
        if options.auto_scale_lr:
            raise ConfigError(
                '--keep-batch keeps the batch and with it the learning rate; leave --auto-scale-lr out.'
            )
        keep_batch(cfg, process_count(options.launcher))
    return cfg


def _set_weights(cfg: Config, options: TrainOptions) -> None:
    """Let the backbone of ``cfg`` start from other weights.

    Raises:
        WeightsError: There are no such weights.
        ConfigError: A whole model is to be started from as well, or the model has no backbone.
    """
    if options.weights is None:
        return
    if options.start_from is not None:
        raise ConfigError(
            '--weights is for the backbone alone, --from for the whole model, its backbone included; '
            'give one of them.'
        )
    find_weights(options.weights)
    if not _set_init_cfg(cfg, _init_cfg_of(options.weights)):
        raise ConfigError(
            '--weights is for the backbone, and the model of this config has no model.backbone.'
        )


def _init_cfg_of(weights: str) -> ConfigDict:
    return ConfigDict(type='Pretrained', checkpoint=weights)


def _set_init_cfg(cfg: Config, init_cfg: ConfigDict | None) -> bool:
    """Let the backbone of ``cfg`` start from these weights, or from none; False if there is none."""
    from downstream.drop_in.pretrained import with_init_cfg
    from downstream.drop_in.stock import inner_model

    model = inner_model(cfg.model)
    if not model.get('backbone'):
        return False
    if init_cfg:
        model.pop('pretrained', None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model['backbone'] = with_init_cfg(model['backbone'], init_cfg)
    return True


def _start_from(cfg: Config, options: TrainOptions) -> None:
    """Let ``cfg`` start from a trained model.

    Raises:
        WeightsError: There is no such checkpoint.
        ConfigError: Another one is to be resumed.
    """
    if options.start_from is None:
        return
    if options.resume not in (None, 'auto'):
        raise ConfigError(
            '--resume CHECKPOINT continues a run, --from CHECKPOINT starts a new one; give one of them.'
        )
    content = read(options.start_from, mmap=True)
    use_decoder_of_file(cfg, content['state_dict'], options.start_from)
    cfg.load_from = options.start_from
    # The backbone's weights are in the checkpoint; those of its pre-training would be replaced.
    _set_init_cfg(cfg, None)


def _apply_settings(cfg: Config, options: TrainOptions) -> None:
    """Change ``cfg`` as the everyday options say.

    Raises:
        ConfigError: A value is not possible, or two options contradict each other.
    """
    processes = process_count(options.launcher)
    if options.batch_size is not None:
        for name in ('auto_scale_lr', 'keep_batch'):
            if getattr(options, name):
                raise ConfigError(
                    f'--batch-size sets the batch and adapts the learning rate to it; leave '
                    f'--{name.replace("_", "-")} out.'
                )
    if options.image_size is not None:
        settings.set_image_size(cfg, options.image_size)
    if options.batch_size is not None:
        total = options.batch_size
        if total == 'auto':
            total = largest_batch(cfg, processes)
        settings.set_batch(cfg, total, processes, scale_lr=options.lr is None)
    if options.epochs is not None:
        # With --keep-batch, the steps of the recipe's batch are stretched afterwards.
        batch = None if options.keep_batch else processes * cfg.train_dataloader.batch_size
        settings.set_epochs(cfg, options.epochs, settings.training_images(cfg), batch)
    if options.lr is not None:
        settings.set_rate(cfg, options.lr)
    if options.patience is not None:
        settings.set_patience(cfg, options.patience)


def _resume(cfg: Config, source: str) -> None:
    """Let ``cfg`` go on from a checkpoint. The runner looks for the newest one of the work dir.

    Raises:
        WeightsError: ``source`` is a path of no file.
    """
    if source == 'auto':
        cfg.resume = 'auto'
        return
    if '://' not in source and not Path(source).is_file():
        raise WeightsError(f'checkpoint {source} does not exist.')
    cfg.resume, cfg.load_from = True, source


def testing_config(options: TestOptions) -> Config:
    """A config that is complete to test ``options.checkpoint``.

    Raises:
        ConfigError: A value or a combination is not possible.
        WeightsError: The checkpoint cannot be used.
    """
    require_usable_gpu()
    cfg = read_config(options)
    cfg.resume = False
    if is_exported(options.checkpoint):
        cfg.load_from = None
        use_exported(cfg, options.checkpoint)
    else:
        use_checkpoint(cfg, options.checkpoint)
    for key in _TRAINING_KEYS:
        cfg[key] = None
    if options.show and sys.platform.startswith('linux'):
        if not os.environ.get('DISPLAY') and not os.environ.get('WAYLAND_DISPLAY'):
            raise ConfigError(
                '--show needs a display, and there is none; --show-dir DIR writes pictures.'
            )
    if options.show or options.show_dir:
        hook = cfg.default_hooks.get('visualization')
        if not hook:
            raise ConfigError(
                '--show and --show-dir need default_hooks.visualization in the config.'
            )
        hook.update(draw=True, show=options.show, wait_time=options.wait_time)
        if options.show_dir:
            hook.test_out_dir = str(Path(options.show_dir).resolve())
    if options.out and not options.out.endswith(('.pkl', '.pickle')):
        key = 'save_dir' if task_of(cfg) == 'detection' else 'output_dir'
        _evaluator(cfg)[key] = options.out
    if options.tta:
        _use_tta(cfg)
    if options.tile is not None:
        given = {} if options.overlap is None else {'overlap': options.overlap}
        use_tiles(cfg, Tiling(options.tile, **given))
    elif options.overlap is not None:
        raise ConfigError('--overlap is that of tiles: give their size as well, --tile PIXELS.')
    return cfg


def use_checkpoint(cfg: Config, checkpoint: str) -> None:
    """Let the model of ``cfg`` have the weights of a checkpoint.

    Raises:
        WeightsError: The checkpoint cannot be read.
        ConfigError: The statistics of its images are not known.
    """
    content = read(checkpoint, mmap=True)
    set_tested_statistics(cfg, content, checkpoint)
    use_decoder_of_file(cfg, content['state_dict'], checkpoint)
    cfg.load_from = checkpoint
    # Weights of the backbone's pre-training would be fetched, and then replaced by the checkpoint's.
    _set_init_cfg(cfg, None)


def use_exported(cfg: Config, path: str) -> None:
    """Let an exported file take the place of the model of ``cfg``."""
    # It imports mmdet and mmseg whole.
    from downstream.exporting import models

    models.use_exported(cfg, str(local_checkpoint(path)))


def _evaluator(cfg: Config) -> ConfigDict:
    evaluator = cfg.test_evaluator
    return evaluator[0] if isinstance(evaluator, (list, tuple)) else evaluator


def _use_tta(cfg: Config) -> None:
    tta = ConfigDict(cfg.get('tta_model') or _DEFAULT_TTA_MODEL[cfg.default_scope])
    changes = tta.pop('module', {})
    changed = Config(dict(module=cfg.model))
    changed.merge_from_dict(dict(module=changes))
    cfg.model = ConfigDict(tta, module=changed.module)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or flip_tta_pipeline(dataset.pipeline)


_DEFAULT_TTA_MODEL = {
    'mmdet': dict(
        type='InstanceTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
    'mmseg': dict(type='SegTTAModel'),
}


def _nearest_config(name: str) -> str:
    scope, marks, inner = name.partition('::')
    if marks:
        folders = [folder for folder in configs_of(scope) if folder.is_dir()]
        if not folders:
            return f' {scope}:: is none of mmdet:: and mmseg::.'
        found = {p.name: f'{scope}::{p.relative_to(folders[0])}' for p in folders[0].rglob('*.py')}
        near = [found[key] for key in get_close_matches(Path(inner).name, found, 3, 0.5)]
        return f' Did you mean {" or ".join(near)}?' if near else ''
    path = Path(name)
    recipes = {p.name: Path('configs', p.relative_to(CONFIGS)) for p in CONFIGS.rglob('*.py')}
    own = {p.name: p for p in Path('configs').rglob('*.py')}
    names = {n: p for n, p in (recipes | own).items() if '_base_' not in p.parts}
    near = [str(names[name]) for name in get_close_matches(path.name, names, 3, 0.5)]
    return f' Did you mean {" or ".join(near)}?' if near else ''
