"""A backbone put into a detector or a segmenter: everything that depends on it is told by it.

Three doors to one mechanism: ``--backbone NAME`` of the command lines and :func:`drop_in` change a
config; :func:`detector` and :func:`segmentor` are one line in a config file. What a name may be stands
in :mod:`backbones.names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import lcm

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import ConvNeXt, TimmBackbone
from backbones.base import accepted_arguments
from backbones.errors import ConfigError
from backbones.layer_decay import depths_of
from backbones.names import backbone_config, known_weights
from backbones.pretrained import is_non_commercial
from backbones.timm_models import pretrained_cfg, tags
from backbones.weight_files import find

# Classes whose word is tested here; they take images of any size.
_OWN = (ConvNeXt, TimmBackbone)
# What is tried: sides that are multiples of every stride, and sides that are not.
_EVEN, _ODD = (128, 192), (165, 227)


@dataclass(frozen=True)
class Fitting:
    """What a detector or segmenter has to know of a backbone.

    Attributes:
        name: As the user gave it.
        config: What builds it, complete.
        built: One of it, perhaps on the meta device.
        channels: Of its maps.
        strides: Of its maps.
        divisor: The sides of its input must be multiples of this.
        mean: Of the input, RGB, 0 to 255; None where the backbone does not say.
        std: Likewise.
    """

    name: str
    config: dict
    built: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    divisor: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def weights(self) -> str | None:
        """The name of its pretrained weights."""
        return (self.config.get('init_cfg') or {}).get('checkpoint')


def detector(name: str, **backbone_args) -> dict:
    """The ``model`` fields of an FPN detector on the backbone ``name``.

    Args:
        name: See :mod:`backbones.names`.
        backbone_args: Further arguments of the backbone's class.

    Raises:
        ConfigError: There is no such backbone, or it breaks the contract.
        WeightsError: There are no such weights.
    """
    fitting = fit(name, 'detection', **backbone_args)
    return {
        'backbone': fitting.config,
        'neck': {'in_channels': list(fitting.channels)},
        'data_preprocessor': _preprocessor(fitting, 'detection'),
    }


def segmentor(name: str, aux_index: int = 2, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter whose auxiliary head reads feature map ``aux_index``.

    Arguments and errors as in :func:`detector`.
    """
    fitting = fit(name, 'segmentation', **backbone_args)
    channels = list(fitting.channels)
    return {
        'backbone': fitting.config,
        'decode_head': {'in_channels': channels, 'in_index': list(range(len(channels)))},
        'auxiliary_head': {'in_channels': channels[aux_index], 'in_index': aux_index},
        'data_preprocessor': _preprocessor(fitting, 'segmentation'),
    }


def linear_segmentor(name: str, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter with one head, which reads the last feature map as it is.

    Arguments and errors as in :func:`detector`.
    """
    fitting = fit(name, 'segmentation', **backbone_args)
    last = fitting.channels[-1]
    return {
        'backbone': fitting.config,
        'decode_head': {
            'in_channels': last,
            'channels': last,  # no convolution stands before the classifier
            'in_index': len(fitting.channels) - 1,
        },
        'data_preprocessor': _preprocessor(fitting, 'segmentation'),
    }


def drop_in(cfg: Config, name: str, **backbone_args) -> str:
    """Change ``cfg``, the config of a detector or a segmenter, to one on the backbone ``name``.

    The recipe stays: schedule, learning rate and its decay, drop path where the backbone has it.

    Returns:
        What was resolved, as a text of several lines.

    Raises:
        ConfigError: There is no such backbone, it breaks the contract, or does not fit this model.
        WeightsError: There are no such weights.
    """
    task = 'segmentation' if 'decode_head' in cfg.model else 'detection'
    old = cfg.model.get('backbone') or {}
    fitting = fit(name, task, recipe_drop_path=old.get('drop_path_rate'), **backbone_args)
    levels = _levels_of(cfg.model)
    if levels and len(fitting.channels) > levels and 'out_indices' not in fitting.config:
        last = tuple(range(len(fitting.channels) - levels, len(fitting.channels)))
        fitting = fit(name, task, **{**_own_arguments(fitting.config), 'out_indices': last})
    model = deepcopy(cfg.model)
    model.backbone = ConfigDict(fitting.config)
    model.setdefault('data_preprocessor', ConfigDict()).update(_preprocessor(fitting, task))
    tell = _tell_detector if task == 'detection' else _tell_segmentor
    tell(model, fitting)
    cfg.model = model
    return _report(cfg, fitting, task)


def fit(name: str, task: str, recipe_drop_path: float | None = None, **backbone_args) -> Fitting:
    """Build the backbone ``name`` once and find out what ``task`` has to know of it.

    Args:
        name: See :mod:`backbones.names`.
        task: ``'detection'`` or ``'segmentation'``; they treat BatchNorm differently.
        recipe_drop_path: The rate for backbones that have drop path; ResNets, whose recipes have none,
            go without.
        backbone_args: Arguments of the backbone's class, which win.
    """
    config = backbone_config(name, **backbone_args)
    built = _build(name, config)
    accepted = accepted_arguments(type(built))
    if recipe_drop_path and 'drop_path_rate' not in config and _has_drop_path(built):
        config['drop_path_rate'] = recipe_drop_path
    config = {**_batch_norm_policy(built, accepted, bool(config.get('init_cfg')), task), **config}
    if isinstance(built, TimmBackbone) and 'size_divisor' not in config:
        config['size_divisor'] = built.input_divisor
    if isinstance(built, _OWN):
        channels, strides, divisor = built.out_channels, built.out_strides, 1
    else:
        channels, strides = _outputs(name, built)
        divisor = _divisor(built, strides)
    mean, std = _normalisation(config, built)
    return Fitting(name, config, built, channels, strides, divisor, mean, std)


def num_classes(base: dict, count: int, model: dict | None = None) -> dict:
    """``model``'s fields and those that set ``count`` classes in every head of the config ``base``.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        count: Number of classes.
        model: What :func:`detector` or :func:`segmentor` gave.
    """
    model = dict(model or {})
    if 'roi_head' not in base:
        for head in ('decode_head', 'auxiliary_head'):
            if base.get(head):
                model[head] = {**model.get(head, {}), 'num_classes': count}
        return model
    heads = model['roi_head'] = dict(model.get('roi_head', {}))
    for key in ('bbox_head', 'mask_head'):
        head = base['roi_head'].get(key)
        if isinstance(head, Sequence):
            heads[key] = [{**stage, 'num_classes': count} for stage in head]
        elif head:
            heads[key] = {'num_classes': count}
    return model


def _build(name: str, config: dict) -> nn.Module:
    """The backbone without its weights; on the meta device, where it can be built and run there."""
    config = {key: value for key, value in config.items() if key != 'init_cfg'}
    try:
        with torch.device('meta'):
            built = MODELS.build(config)
        if not isinstance(built, _OWN):
            _maps(built, _EVEN)
        return built
    except ConfigError:
        raise
    except Exception:  # what no meta device can do, or a mistake, which will show again
        pass
    try:
        built = MODELS.build(config)
    except Exception as error:
        raise ConfigError(
            f'backbone {name!r} cannot be built with {_own_arguments(config)}: '
            f'{type(error).__name__}: {error}'
        ) from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f'backbone {name!r}: {type(built).__name__} is no torch.nn.Module.')
    return built


def _own_arguments(config: Mapping) -> dict:
    return {k: v for k, v in config.items() if k not in ('type', 'init_cfg', 'model', 'arch')}


def _has_drop_path(built: nn.Module) -> bool:
    inner = built.model if isinstance(built, TimmBackbone) else built
    return 'drop_path_rate' in accepted_arguments(type(inner)) and not isinstance(inner, ResNet)


def _batch_norm_policy(
    built: nn.Module, accepted: set[str], pretrained: bool, task: str
) -> dict[str, object]:
    """How BatchNorm is treated where a process sees two images at a time.

    Detectors keep the statistics of pretraining, and ResNets also their first stage, as in their
    recipes; segmenters, and whatever starts from random values, take them over all processes.
    """
    if not any(isinstance(module, _BatchNorm) for module in built.modules()):
        return {}
    if task == 'detection' and pretrained:
        policy = {'norm_eval': True}
        if isinstance(getattr(built, 'model', None), ResNet):
            policy['frozen_stages'] = 1
    else:
        policy = {'sync_bn': True}
    return {key: value for key, value in policy.items() if key in accepted}


@torch.no_grad()
def _maps(built: nn.Module, size: tuple[int, int]) -> object:
    training = built.training
    device = next((p.device for p in built.parameters()), torch.device('cpu'))
    built.eval()  # not chained: OpenMMLab's backbones return nothing
    try:
        return built(torch.zeros(1, 3, *size, device=device))
    finally:
        built.train(training)


def _outputs(name: str, built: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the maps, as a forward pass shows them.

    Raises:
        ConfigError: They are not what the contract asks for, or not what the class states.
    """
    kind = type(built).__name__
    try:
        maps = _maps(built, _EVEN)
    except Exception as error:
        raise ConfigError(
            f'backbone {name!r}: {kind} fails on images of {_EVEN[0]} x {_EVEN[1]}: '
            f'{type(error).__name__}: {error}'
        ) from error
    if not isinstance(maps, (tuple, list)) or not all(
        isinstance(m, torch.Tensor) and m.ndim == 4 for m in maps
    ):
        found = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise ConfigError(
            f'backbone {name!r}: forward of {kind} gives {found}; it must give a tuple of feature '
            'maps (N, C, H, W), the finest first.'
        )
    channels = tuple(m.shape[1] for m in maps)
    strides = []
    for i, m in enumerate(maps):
        high, wide = _EVEN[0] / m.shape[2], _EVEN[1] / m.shape[3]
        if high != wide or high != int(high):
            raise ConfigError(
                f'backbone {name!r}: map {i} of {kind} is {tuple(m.shape[1:])} for an image of '
                f"{_EVEN[0]} x {_EVEN[1]}; its sides must be the image's over one whole stride."
            )
        strides.append(int(high))
    if strides != sorted(strides):
        raise ConfigError(
            f'backbone {name!r}: the maps of {kind} come with strides {strides}; the finest map must '
            'be first.'
        )
    for what, found in (('out_channels', channels), ('out_strides', tuple(strides))):
        stated = getattr(built, what, None)
        if stated is not None and tuple(stated) != found:
            raise ConfigError(
                f'backbone {name!r}: {kind}.{what} says {tuple(stated)}, but the maps have {found}.'
            )
    return channels, tuple(strides)


def _divisor(built: nn.Module, strides: tuple[int, ...]) -> int:
    """What the sides of an image must be multiples of, 1 if the backbone takes any."""
    needed = int(getattr(built, 'size_divisor', None) or max(strides))
    try:
        maps = _maps(built, _ODD)
    except Exception:  # whatever it is that fails, such sides are not for this backbone
        return needed
    fit = all(
        size in (side // stride, -(-side // stride))
        for m, stride in zip(maps, strides)
        for size, side in zip(m.shape[-2:], _ODD)
    )
    return 1 if fit else needed


def _normalisation(config: Mapping, built: nn.Module):
    """Mean and standard deviation of the input that the weights were trained with."""
    if isinstance(built, _OWN):
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        checkpoint = (config.get('init_cfg') or {}).get('checkpoint', '')
        if checkpoint.startswith('timm:'):
            cfg = pretrained_cfg(checkpoint.removeprefix('timm:'))
            mean, std = cfg.mean, cfg.std
        # 255 * .229 is not quite 58.395 in binary
        return tuple(round(255 * m, 6) for m in mean), tuple(round(255 * s, 6) for s in std)
    return getattr(built, 'input_mean', None), getattr(built, 'input_std', None)


def _preprocessor(fitting: Fitting, task: str) -> dict:
    fields: dict = {}
    if fitting.mean is not None:
        fields |= {'mean': list(fitting.mean), 'std': list(fitting.std), 'bgr_to_rgb': True}
    if task == 'detection':
        fields['pad_size_divisor'] = lcm(max(fitting.strides), fitting.divisor)
    elif fitting.divisor > 1:
        fields['test_cfg'] = {'size_divisor': fitting.divisor}
    return fields


def _levels_of(model: Mapping) -> int | None:
    """How many maps a model reads, where its config says so."""
    neck = model.get('neck') or {}
    head = model.get('decode_head') or {}
    for channels in (neck.get('in_channels'), head.get('in_channels') if not neck else None):
        if isinstance(channels, Sequence):
            return len(channels)
    return None


def _tell_detector(model: ConfigDict, fitting: Fitting) -> None:
    if not model.get('neck'):
        raise ConfigError(
            f'backbone {fitting.name!r}: this detector ({model.get("type")}) has no neck that could '
            'be told the channels.'
        )
    anchors = ((model.get('rpn_head') or {}).get('anchor_generator') or {}).get('strides')
    wanted = tuple(anchors[: len(fitting.strides)]) if anchors else fitting.strides
    if tuple(fitting.strides) != wanted or (
        anchors and len(fitting.strides) < 4 <= len(anchors) - 1
    ):
        raise ConfigError(
            f'backbone {fitting.name!r} gives maps of strides {fitting.strides}; the anchors of this '
            f'detector are for {tuple(anchors)}. Return one map each at strides 4, 8, 16 and 32.'
        )
    model.neck.in_channels = list(fitting.channels)


def _tell_segmentor(model: ConfigDict, fitting: Fitting) -> None:
    count = len(fitting.channels)
    for key in ('decode_head', 'auxiliary_head', 'neck'):
        heads = model.get(key)
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if not head:
                continue
            index = head.get('in_index', list(range(count)) if key != 'auxiliary_head' else 2)
            indices = [index] if isinstance(index, int) else list(index)
            if any(not -count <= i < count for i in indices):
                raise ConfigError(
                    f'backbone {fitting.name!r} gives {count} maps; {key} of this config reads maps '
                    f'{indices}.'
                )
            channels = [fitting.channels[i] for i in indices]
            head.in_channels = channels[0] if isinstance(index, int) else channels
    crop = model.data_preprocessor.get('size')
    if crop and any(side % fitting.divisor for side in crop):
        raise ConfigError(
            f'backbone {fitting.name!r} needs sides that are multiples of {fitting.divisor}; the crops '
            f'of this config are {tuple(crop)}.'
        )


def _report(cfg: Config, fitting: Fitting, task: str) -> str:
    config = fitting.config
    lines = [
        ('backbone', f'{fitting.name} ({config["type"]})'),
        (
            'maps',
            f'{", ".join(map(str, fitting.channels))} channels at strides '
            f'{", ".join(map(str, fitting.strides))}',
        ),
        *_weights_lines(fitting),
    ]
    preprocessor = cfg.model.data_preprocessor
    lines.append(('input', f'mean {_short(preprocessor.mean)}, std {_short(preprocessor.std)}'))
    divisor = preprocessor.get('pad_size_divisor') if task == 'detection' else fitting.divisor
    lines.append(
        ('padding', f'to multiples of {divisor}' if divisor > 1 else 'none: takes any size')
    )
    lines.append(('BatchNorm', _batch_norm_in_words(fitting)))
    lines.append(('drop path', str(config.get('drop_path_rate', 'none'))))
    lines.append(('layer decay', _layer_decay_in_words(cfg, fitting)))
    return '\n'.join(f'{what:>12}  {value}' for what, value in lines)


def _short(values: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _weights_lines(fitting: Fitting) -> list[tuple[str, str]]:
    if fitting.weights:
        licence = find(fitting.weights).licence
        warning = ' - NON-COMMERCIAL use only' if is_non_commercial(licence) else ''
        return [('weights', fitting.weights), ('licence', licence + warning)]
    if fitting.name.startswith('timm:'):
        known = [f'{fitting.name}.{tag}' for tag in tags(fitting.config['model'])]
    else:
        known = known_weights(fitting.name)
    hint = f'; known: {", ".join(known[:6])}{", ..." if len(known) > 6 else ""}' if known else ''
    return [('weights', f'none, random values{hint}')]


def _batch_norm_in_words(fitting: Fitting) -> str:
    count = sum(isinstance(module, _BatchNorm) for module in fitting.built.modules())
    if not count:
        return 'none'
    words = []
    if fitting.config.get('norm_eval'):
        words.append('statistics frozen')
    elif fitting.config.get('sync_bn'):
        words.append('statistics over all processes')
    else:
        words.append("statistics of each process, as the backbone's class has it")
    if fitting.config.get('frozen_stages', -1) >= 0:
        words.append(f'stem and stages up to {fitting.config["frozen_stages"]} do not train')
    return f'{count} layers, ' + ', '.join(words)


def _layer_decay_in_words(cfg: Config, fitting: Fitting) -> str:
    wrapper = cfg.get('optim_wrapper') or {}
    paramwise = wrapper.get('paramwise_cfg') or {}
    rate = paramwise.get('decay_rate')
    if wrapper.get('constructor') != 'LayerDecayOptimWrapperConstructor' or rate is None:
        return 'none in this config'
    decay_type = paramwise.get('decay_type', 'layer_wise')
    depths = depths_of(fitting.built, decay_type)
    total = max(depths.values())[1]
    stem = rate ** (total - 1 - min(depth for depth, _ in depths.values()))
    if stem == 1:
        return 'off: every rate is the same'
    return f'{rate} {decay_type}, {total - 2} groups; the stem learns at {stem:.3g} of the rate'
