"""What a detector or segmenter needs to know of a backbone, found by building it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import lcm
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import accepted_arguments
from backbones.completed import STRIDES
from backbones.errors import ConfigError, UserError
from backbones.names import backbone_config
from backbones.pyramid import can_be_made, nearest_stride
from backbones.uninitialised import on_meta
from backbones.weights.timm_catalog import first_line

from .pretrained import ANY_MODULE, with_init_cfg

# Sides of the images of the trial passes are the smallest allowed ones from these on.
TRIED = (128, 192)
_ODD = (165, 227)
# Where the backbone states neither strides nor a divisor, sides are multiples of this.
_USUAL_STRIDE = 32


@dataclass(frozen=True)
class BackboneFacts:
    """What a detector or segmenter needs to know of a backbone.

    Attributes:
        name: As the user gave it.
        config: The complete config that builds it.
        built: An instance with random weights, on the meta device where possible.
        channels: Number of channels of every map.
        strides: Stride of every map, in pixels of the input.
        input_channels: Channels of the images.
        divisor: The sides of the input must be multiples of this.
        mean: Mean of the input, RGB, 0 to 255; None where the backbone does not state it.
        std: Standard deviation of the input.
    """

    name: str
    config: dict
    built: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    input_channels: int
    divisor: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def weights(self) -> str | None:
        """The name of its pretrained weights."""
        return (self.config.get('init_cfg') or {}).get('checkpoint')


def inspect_backbone(
    name: str,
    task: str,
    recipe_drop_path: float | None = None,
    frozen: bool = False,
    **backbone_args,
) -> BackboneFacts:
    """Build the backbone ``name`` once and read the facts that ``task`` needs.

    Args:
        name: See :mod:`backbones.names`.
        task: ``'detection'`` or ``'segmentation'``; they treat BatchNorm differently.
        recipe_drop_path: The recipe's drop path rate, for backbones to which it applies.
        frozen: Whether no stage of the backbone trains.
        backbone_args: Arguments of the backbone's class; they win over what the recipe says.

    Raises:
        ConfigError: There is no such backbone, or it breaks the contract.
        WeightsError: There are no such weights.
    """
    config = backbone_config(name, **backbone_args)
    settle_in_channels(name, config)
    contiguous = _without_foreign_contiguity(config)
    built, maps = _build(name, config)
    accepted = accepted_arguments(type(built))
    if recipe_drop_path and 'drop_path_rate' not in config:
        stated = getattr(built, 'takes_drop_path_rate', None)
        if 'drop_path_rate' in accepted if stated is None else stated:
            config['drop_path_rate'] = recipe_drop_path
    if frozen and 'frozen_stages' not in config:
        config['frozen_stages'] = _all_stages(name, built, accepted)
    config = {**_batch_norm_policy(built, accepted, bool(config.get('init_cfg')), task), **config}
    resolved: dict = getattr(built, 'resolved_arguments', dict)()
    config |= {key: value for key, value in resolved.items() if key not in config}
    if config.get('init_cfg') and 'init_cfg' not in accepted:
        config = dict(with_init_cfg(config, config['init_cfg']))
    if contiguous:
        module = config.pop('module', config['type'])
        config |= {'type': ANY_MODULE, 'module': module, 'contiguous_maps': True}
    return _facts(name, config, built, maps)


def completed(facts: BackboneFacts) -> BackboneFacts:
    """The same backbone with one map at each of the strides 4, 8, 16 and 32.

    Maps that it lacks are made (:class:`backbones.completed.CompletedBackbone`). It is returned as it is
    if it has these strides, if its config chooses the maps, or if they cannot be made of its own.
    """
    if facts.strides == STRIDES or 'out_indices' in facts.config or not _can_be_completed(facts):
        return facts
    return as_completed(facts)


def as_completed(facts: BackboneFacts) -> BackboneFacts:
    """The backbone as a :class:`backbones.completed.CompletedBackbone`, which can choose its maps."""
    config = dict(facts.config)
    kind = config.pop('type')
    if kind == ANY_MODULE:
        kind = config.pop('module')
    config = {
        'type': 'CompletedBackbone',
        'module': kind,
        'channels': list(facts.channels),
        'strides': list(facts.strides),
        **config,
    }
    return inspect_with(facts, **config)


def inspect_with(facts: BackboneFacts, **changes: object) -> BackboneFacts:
    """The facts of the same backbone with other arguments."""
    config = changes if 'type' in changes else {**facts.config, **changes}
    built, maps = _build(facts.name, config)
    return _facts(facts.name, config, built, maps)


def _can_be_completed(facts: BackboneFacts) -> bool:
    for target in STRIDES:
        source = nearest_stride(target, facts.strides)
        channels = dict(zip(facts.strides, facts.channels))[source]
        if not can_be_made(channels, source, target):
            return False
    return True


def leaves_untrained(facts: BackboneFacts, read: Sequence[int]) -> bool:
    """Whether parameters that train get no gradient if only the maps ``read`` are used.

    Distributed training stops at such parameters.
    """
    built = facts.built
    training = built.training
    try:
        built.train()
        device = next((p.device for p in built.parameters()), torch.device('cpu'))
        maps = built(torch.zeros(2, facts.input_channels, *_trial_size(built), device=device))
        sum(maps[i].float().sum() for i in read).backward()
        return any(p.requires_grad and p.grad is None for p in built.parameters())
    except (RuntimeError, NotImplementedError, ValueError):
        return False  # not to be found out here
    finally:
        built.zero_grad(set_to_none=True)
        built.train(training)


def _facts(name: str, config: dict, built: nn.Module, maps: object) -> BackboneFacts:
    channels = input_channels(built, config)
    probe = _Probe(name, built, maps, channels)
    return BackboneFacts(
        name,
        config,
        built,
        probe.channels,
        probe.strides,
        channels,
        probe.divisor,
        getattr(built, 'input_mean', None),
        getattr(built, 'input_std', None),
    )


def settle_in_channels(name: str, config: dict) -> None:
    """Make sure that the class of a backbone is built for the ``in_channels`` of its config.

    A class whose ``input_channels`` are just these needs no argument; it is removed from ``config``.

    Raises:
        ConfigError: The class takes other images only.
    """
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if 'in_channels' not in config or not isinstance(cls, type):
        return
    if 'in_channels' not in accepted_arguments(cls):
        wanted = config.pop('in_channels')
        if getattr(cls, 'input_channels', 3) == wanted:
            return
        raise ConfigError(
            f'backbone {name!r}: {cls.__name__} takes no argument in_channels, so it cannot be built for '
            f'images of {wanted} channels; add this argument, and make the first layer '
            'with it (docs/backbones.md).'
        )


def _without_foreign_contiguity(config: dict) -> bool:
    """Whether ``contiguous_maps`` is wanted of a class without this argument; it is removed then."""
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if isinstance(cls, type) and 'contiguous_maps' in accepted_arguments(cls):
        return False
    return bool(config.pop('contiguous_maps', False))


def input_channels(built: nn.Module, config: Mapping) -> int:
    """Channels of the images that a backbone takes: as it states, or as its config says."""
    stated = getattr(built, 'input_channels', None)
    return int(stated if stated is not None else config.get('in_channels', 3))


def _build(name: str, config: dict) -> tuple[nn.Module, object]:
    """The backbone with random weights, and its maps of the first trial image.

    It is on the meta device if it can be built and run there. Otherwise it has not run: None for maps.
    """
    try:
        with on_meta():
            built = _build_with_statistics(config)
        return built, run_once(built, _trial_size(built), input_channels(built, config))
    except UserError:
        raise
    except Exception:  # the meta device lacks an operator, or a mistake, which will show again
        pass
    try:
        built = _build_with_statistics(config)
    except Exception as error:
        raise ConfigError(
            f'backbone {name!r} cannot be built with {_own_arguments(config)}: '
            f'{type(error).__name__}: {first_line(error)}'
        ) from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f'backbone {name!r}: {type(built).__name__} is not a torch.nn.Module.')
    return built, None


def _build_with_statistics(config: dict) -> nn.Module:
    """The module that ``config`` builds, with ``init_cfg`` where its class has this argument: which
    statistics the input must have depends on the weights."""
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if not isinstance(cls, type) or 'init_cfg' not in accepted_arguments(cls):
        config = {key: value for key, value in config.items() if key != 'init_cfg'}
    return MODELS.build(dict(config))


def _own_arguments(config: Mapping) -> dict:
    return {k: v for k, v in config.items() if k not in ('type', 'init_cfg', 'model', 'arch')}


def _all_stages(name: str, built: nn.Module, accepted: set[str]) -> int:
    """The value of ``frozen_stages`` that freezes every stage."""
    stages = getattr(built, 'num_stages', None)
    if 'frozen_stages' not in accepted or not isinstance(stages, int):
        lacks = (
            'takes no frozen_stages' if 'frozen_stages' not in accepted else 'states no num_stages'
        )
        raise ConfigError(
            f'backbone {name!r}: this recipe trains nothing of the backbone, but '
            f'{type(built).__name__} {lacks} (docs/backbones.md).'
        )
    return stages


def _batch_norm_policy(
    built: nn.Module, accepted: set[str], pretrained: bool, task: str
) -> dict[str, object]:
    """Arguments for BatchNorm where a process sees two images at a time.

    Pretrained detectors freeze the pretrained statistics, and as many stages as recipes of this
    backbone freeze. Segmenters, and whatever starts from random weights, synchronise the statistics of
    all processes.
    """
    if not any(isinstance(module, _BatchNorm) for module in built.modules()):
        return {}
    policy: dict[str, object] = {'sync_bn': True}
    if task == 'detection' and pretrained:
        policy = {'norm_eval': True}
        frozen = getattr(built, 'recipe_frozen_stages', -1)
        if frozen >= 0:
            policy['frozen_stages'] = frozen
    return {key: value for key, value in policy.items() if key in accepted}


@torch.no_grad()
def run_once(built: nn.Module, size: tuple[int, int], channels: int) -> object:
    """What ``built`` returns for an image ``(channels, *size)`` in evaluation mode."""
    training = built.training
    tensors = chain(built.parameters(), built.buffers())
    device = next((t.device for t in tensors), torch.device('cpu'))
    built.eval()  # not chained: train() of OpenMMLab's backbones returns nothing
    try:
        return built(torch.zeros(1, channels, *size, device=device))
    finally:
        built.train(training)


def _trial_size(built: nn.Module) -> tuple[int, int]:
    """Height and width of the first trial image: two different multiples of all strides."""
    strides = getattr(built, 'out_strides', None) or (_USUAL_STRIDE,)
    step = lcm(int(getattr(built, 'size_divisor', None) or 1), *map(int, strides))
    height, width = (-(-side // step) * step for side in TRIED)
    return height, width if width > height else height + step


class _Probe:
    """What forward passes of a backbone show: channels and strides of its maps, and its sizes.

    Args:
        name: Of the backbone, for messages.
        built: The backbone.
        maps: What it returns for the first trial image; None: it has not run yet.
        channels: Of the images.

    Raises:
        ConfigError: The maps are not what the contract asks for, or not what the class states.
    """

    def __init__(self, name: str, built: nn.Module, maps: object, channels: int) -> None:
        self.name, self.built, self.kind = name, built, type(built).__name__
        self.input_channels = channels
        self.size = _trial_size(built)
        maps = self._checked(self._run() if maps is None else maps)
        self.channels = tuple(m.shape[1] for m in maps)
        self.strides = self._strides_of(maps)
        for what, found in (('out_channels', self.channels), ('out_strides', self.strides)):
            stated = getattr(built, what, None)
            if stated and tuple(stated) != found:
                raise self._error(
                    f'{self.kind}.{what} is {tuple(stated)}, but the maps have {found}.'
                )

    def _error(self, words: str) -> ConfigError:
        return ConfigError(f'backbone {self.name!r}: {words}')

    def _run(self) -> object:
        try:
            return run_once(self.built, self.size, self.input_channels)
        except Exception as error:
            words = (
                f'{self.kind} fails on images of {self.size[0]} x {self.size[1]}'
                + (f' and {self.input_channels} channels' if self.input_channels != 3 else '')
                + f': {type(error).__name__}: {first_line(error)}'
            )
            if not getattr(self.built, 'size_divisor', None) and isinstance(
                error, (RuntimeError, ValueError, AssertionError)
            ):
                words += ' If it takes only multiples of some number, state it as size_divisor.'
            raise self._error(words) from error

    def _checked(self, maps: object) -> list[Tensor]:
        if not isinstance(maps, (tuple, list)) or not all(
            isinstance(m, Tensor) and m.ndim == 4 for m in maps
        ):
            found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise self._error(
                f'forward of {self.kind} returns {found}; it must return a tuple of feature maps '
                '(N, C, H, W), the finest first.'
            )
        return list(maps)

    def _strides_of(self, maps: list[Tensor]) -> tuple[int, ...]:
        high, wide = self.size
        strides = []
        for i, m in enumerate(maps):
            stride = high / m.shape[2]
            if stride != wide / m.shape[3] or stride != int(stride):
                raise self._error(
                    f'map {i} of {self.kind} is {tuple(m.shape[1:])} for an image of {high} x {wide}; '
                    "its sides must be the image's divided by one integer stride."
                )
            strides.append(int(stride))
        if strides != sorted(strides):
            raise self._error(
                f'the maps of {self.kind} have strides {strides}; the finest map must be first.'
            )
        return tuple(strides)

    @property
    def divisor(self) -> int:
        """What the sides of images must be multiples of; 1 if the backbone takes any size."""
        stated = getattr(self.built, 'size_divisor', None)
        if stated:
            return int(stated)
        takes_any = getattr(self.built, 'takes_any_size', None)
        if takes_any is None:
            takes_any = self._runs_at_odd_sizes()
        return 1 if takes_any else max(self.strides)

    def _runs_at_odd_sizes(self) -> bool:
        try:
            maps: Any = run_once(self.built, _ODD, self.input_channels)
            sizes = [tuple(m.shape[-2:]) for m in maps]
        except Exception:  # it does not take such sizes, whatever the error is
            return False
        return len(sizes) == len(self.strides) and all(
            size in (side // stride, -(-side // stride))
            for sides, stride in zip(sizes, self.strides)
            for size, side in zip(sides, _ODD)
        )
