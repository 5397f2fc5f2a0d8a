"""A backbone built once, to find out what a detector or a segmenter has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import ConvNeXt, TimmBackbone
from backbones.base import accepted_arguments
from backbones.errors import ConfigError
from backbones.names import backbone_config
from backbones.weights.timm_catalog import pretrained_cfg

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


def fit(
    name: str,
    task: str,
    recipe_drop_path: float | None = None,
    frozen: bool = False,
    **backbone_args,
) -> Fitting:
    """Build the backbone ``name`` once and find out what ``task`` has to know of it.

    Args:
        name: See :mod:`backbones.names`.
        task: ``'detection'`` or ``'segmentation'``; they treat BatchNorm differently.
        recipe_drop_path: The rate for backbones that have drop path; ResNets, whose recipes have none,
            go without.
        frozen: Whether no stage of the backbone trains.
        backbone_args: Arguments of the backbone's class, which win.
    """
    config = backbone_config(name, **backbone_args)
    built = _build(name, config)
    accepted = accepted_arguments(type(built))
    if recipe_drop_path and 'drop_path_rate' not in config and _has_drop_path(built):
        config['drop_path_rate'] = recipe_drop_path
    if frozen and 'frozen_stages' not in config:
        if 'frozen_stages' not in accepted:
            raise ConfigError(
                f'backbone {name!r}: this recipe trains nothing of the backbone, and '
                f'{type(built).__name__} takes no frozen_stages that would say so.'
            )
        config['frozen_stages'] = built.num_stages
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
