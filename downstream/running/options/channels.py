"""A config for images of other channels than 8-bit R, G and B: ``channels`` and ``bands``.

The settings stand in a config (``bands = (3, 2, 1, 7)``) or on a command line (``--bands 3 2 1 7``).
Loaders, augmentation, normalisation and backbone follow from them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from backbones.errors import ConfigError
from downstream.data.images.loading import checked_bands
from downstream.data.images.statistics import measure
from downstream.data.pipelines import pipeline_switches, steps_of
from downstream.distributed.processes import is_first_process
from downstream.drop_in.facts import settle_in_channels
from downstream.running.checkpoint.files import newest_whole
from downstream.running.checkpoint.read import read

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_PIPELINES = ('train_pipeline', 'test_pipeline', 'tta_pipeline')
# Transforms that change colours; they are made for 8-bit BGR.
_COLOR_TRANSFORMS = {
    'AdjustGamma',
    'AutoAugment',
    'AutoContrast',
    'Brightness',
    'CLAHE',
    'Color',
    'ColorJitter',
    'ColorTransform',
    'Contrast',
    'Equalize',
    'Grayscale',
    'Invert',
    'PhotoMetricDistortion',
    'Posterize',
    'RGB2Gray',
    'RandAugment',
    'RandomGrayscale',
    'Sharpness',
    'Solarize',
    'SolarizeAdd',
    'YOLOXHSVRandomAug',
}


def chosen_bands(cfg: Config) -> tuple[int, ...] | None:
    """The bands that ``channels`` and ``bands`` of a config choose; None: ordinary 8-bit RGB images.

    Raises:
        ConfigError: They contradict each other, or are no positive integers.
    """
    channels, bands = cfg.get('channels'), cfg.get('bands')
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise ConfigError(f'channels={channels!r}: give the number of channels of the images.')
    if bands is None:
        return None if channels in (None, 3) else tuple(range(1, channels + 1))
    bands = checked_bands(bands)
    if channels not in (None, len(bands)):
        raise ConfigError(
            f'channels={channels}, but bands={bands} are {len(bands)}; leave channels out.'
        )
    return bands


def use_bands(cfg: Config, keep_statistics: bool = False) -> None:
    """Change ``cfg`` in place for the images that its ``channels`` and ``bands`` describe.

    Loaders become ``LoadBands``, transforms of colours are left out, the backbone gets ``in_channels``,
    and mean and standard deviation become None, until :func:`set_trained_statistics` measures them. A
    config that reads these bands already, like the one in a work dir, stays as it is.

    Args:
        cfg: A complete config.
        keep_statistics: Whether mean and standard deviation of ``cfg`` are those of these bands.

    Raises:
        ConfigError: The settings contradict each other, or the backbone takes no ``in_channels``.
    """
    bands = chosen_bands(cfg)
    if bands is None:
        return
    _use_channels(cfg.model.backbone, len(bands))
    found = [step for key in _LOADERS for step in _dataset_steps(cfg.get(key))]
    loaders = [step for step in found if _is_loader(step)]
    read_now = {tuple(step.get('bands') or ()) for step in loaders}
    if read_now == {bands}:
        return
    removed: set[str] = set()
    change = _changer(bands, removed)
    for key in _LOADERS:
        if cfg.get(key):
            cfg[key] = _with_pipelines(cfg[key], change)
    for key in _PIPELINES:
        if cfg.get(key):
            cfg[key] = change(cfg[key])
    for hook in pipeline_switches(cfg):
        hook.switch_pipeline = change(hook.switch_pipeline)
    preprocessor = cfg.model.setdefault('data_preprocessor', ConfigDict())
    preprocessor.bgr_to_rgb = preprocessor.rgb_to_bgr = False
    # A recipe's mean and standard deviation are those of 8-bit RGB images.
    stated = [preprocessor.get(key) for key in ('mean', 'std')]
    fits = None not in stated and 3 not in map(len, stated) and read_now == {()}
    if not keep_statistics and not fits:
        preprocessor.mean = preprocessor.std = None
    _require_statistics(preprocessor, bands)
    if is_first_process():
        text = f'Images: bands {", ".join(map(str, bands))} of every file.'
        if removed:
            text += f' {", ".join(sorted(removed))} left out: made for 8-bit RGB.'
        print_log(text, 'current')


def set_trained_statistics(cfg: Config) -> None:
    """Measure mean and standard deviation of the training images, where :func:`use_bands` left them out.

    A run that is resumed has those of its checkpoint.

    Raises:
        ConfigError: The data set does not list its images.
        DataError: An image cannot be read.
    """
    if not _lacks_statistics(cfg):
        return
    stated = _stated_statistics(_resumed_checkpoint(cfg))
    preprocessor = cfg.model.data_preprocessor
    if stated and len(stated[0]) in (1, len(chosen_bands(cfg) or ())):
        preprocessor.mean, preprocessor.std = stated
        return
    steps = _dataset_steps(cfg.train_dataloader)
    load = next((step for step in steps if step.get('type') == 'LoadBands'), None)
    if load is None:
        raise ConfigError(
            'mean and std cannot be measured: the pipeline of train_dataloader has no LoadBands; set '
            'model.data_preprocessor.mean and std.'
        )
    measured = measure(cfg.train_dataloader.dataset, load, cfg.default_scope)
    preprocessor.mean, preprocessor.std = list(measured.mean), list(measured.std)
    if is_first_process():
        print_log(
            f'Measured from {measured.images} of {measured.total} training images: '
            f'mean {_listed(measured.mean)}; std {_listed(measured.std)}.',
            'current',
        )


def set_tested_statistics(cfg: Config, checkpoint: Mapping, name: str) -> None:
    """Give ``cfg`` the mean and standard deviation that the model of a checkpoint was trained with.

    Args:
        cfg: A config without them, or with its own, which stay.
        checkpoint: Its content; the config of its training is in it.
        name: Of the checkpoint, for messages.

    Raises:
        ConfigError: Neither states them.
    """
    if not _lacks_statistics(cfg):
        return
    stated = _stated_statistics(checkpoint)
    if stated is None or len(stated[0]) not in (1, len(chosen_bands(cfg) or ())):
        raise ConfigError(
            f'{name} does not say with which mean and std its {len(chosen_bands(cfg) or ())} channels '
            'were trained; give the config that training wrote into its work dir.'
        )
    cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std = stated


def _resumed_checkpoint(cfg: Config) -> Mapping:
    """The checkpoint that a run is to go on from; empty if it starts anew."""
    if not cfg.get('resume'):
        return {}
    if cfg.resume != 'auto' and cfg.get('load_from'):
        return read(cfg.load_from, mmap=True)
    found = newest_whole(cfg.work_dir, mmap=True)
    return found[1] if found else {}


def _lacks_statistics(cfg: Config) -> bool:
    return bool(chosen_bands(cfg)) and cfg.model.data_preprocessor.get('mean') is None


def _stated_statistics(checkpoint: Mapping) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation in the config of a checkpoint, whose text is read, never executed."""
    text = (checkpoint.get('meta') or {}).get('cfg')
    try:
        tree = ast.parse(text if isinstance(text, str) else '')
        preprocessors = [
            getattr(node.value, 'keywords', ())
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg == 'data_preprocessor'
        ]
        for keywords in preprocessors:
            found = {k.arg: ast.literal_eval(k.value) for k in keywords if k.arg in ('mean', 'std')}
            if found.get('mean') and found.get('std'):
                return list(found['mean']), list(found['std'])
    except (SyntaxError, ValueError, TypeError, RecursionError):  # whatever the file holds there
        return None
    return None


def _listed(values: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _require_statistics(preprocessor: ConfigDict, bands: Sequence[int]) -> None:
    for key in ('mean', 'std'):
        values = preprocessor.get(key)
        if values is not None and len(values) not in (1, len(bands)):
            raise ConfigError(
                f'model.data_preprocessor.{key} has {len(values)} values for {len(bands)} bands.'
            )


def _use_channels(backbone: ConfigDict, channels: int) -> None:
    timm_arguments = backbone.get('model_args') or {}
    stated = backbone.get('in_channels', timm_arguments.get('in_chans', 3))
    if stated != channels:
        backbone.in_channels = channels
        settle_in_channels(str(backbone.get('type')), backbone)


def _dataset_steps(loader: Mapping | None) -> Iterator[Mapping]:
    dataset = (loader or {}).get('dataset')
    while isinstance(dataset, Mapping):
        yield from steps_of(dataset.get('pipeline') or ())
        dataset = dataset.get('dataset')


def _is_loader(step: Mapping) -> bool:
    return str(step.get('type')).rpartition('.')[2] in ('LoadImageFromFile', 'LoadBands')


def _changer(bands: tuple[int, ...], removed: set[str]) -> Callable[[Iterable], list]:
    """A function that gives a pipeline the loader of ``bands`` and notes in ``removed`` what it drops."""

    def change(pipeline: Iterable) -> list:
        changed: list = []
        for step in pipeline:
            if isinstance(step, (list, tuple)):
                changed.append(change(step))
                continue
            kind = str(step.get('type')).rpartition('.')[2]
            if kind in _COLOR_TRANSFORMS:
                removed.add(kind)
                continue
            if _is_loader(step):
                names = ('picture_bands', 'fill') if kind == 'LoadBands' else ()
                kept = {k: step[k] for k in (*names, 'backend_args') if step.get(k) is not None}
                changed.append(ConfigDict(type='LoadBands', bands=bands, **kept))
                continue
            step = ConfigDict(step)
            if isinstance(step.get('transforms'), (list, tuple)):
                step.transforms = change(step.transforms)
            changed.append(step)
        return changed

    return change


def _with_pipelines(part: ConfigDict, change: Callable[[Iterable], list]) -> ConfigDict:
    """A data loader or data set whose pipelines, nested ones included, are changed."""
    part = ConfigDict(part)
    if part.get('pipeline'):
        part.pipeline = change(part.pipeline)
    if isinstance(part.get('dataset'), Mapping):
        part.dataset = _with_pipelines(part.dataset, change)
    if isinstance(part.get('datasets'), (list, tuple)):
        part.datasets = [_with_pipelines(dataset, change) for dataset in part.datasets]
    return part
