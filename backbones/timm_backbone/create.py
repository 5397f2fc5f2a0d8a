"""Build a timm model for dense prediction, and read what it states about its feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import accepted_arguments
from backbones.errors import ConfigError
from backbones.uninitialised import on_meta
from backbones.weights.timm_catalog import first_line

# An nn.Module with what timm's models have besides: feature_info, forward_intermediates, ...
TimmModel: TypeAlias = Any

STRIDES = (4, 8, 16, 32)
# What makes timm's models take images of any size, for those that have the option.
_ANY_SIZE = {
    'dynamic_img_size': True,
    'dynamic_img_pad': True,
    'strict_img_size': False,
    'always_partition': True,
}
_OTHER_NORMS = ('LayerNorm', 'GroupNorm', 'RmsNorm', 'SimpleNorm')


def dense_model_args(name: str, drop_path_rate: float, given: dict) -> dict:
    """The arguments that make timm's model fit for dense prediction, below those ``given``."""
    with on_meta():
        model = create(name, given)
    accepted = accepted_arguments(type(model))
    args: dict[str, object] = {key: value for key, value in _ANY_SIZE.items() if key in accepted}
    strides = {info['reduction'] for info in model.feature_info}
    if 14 in strides and 'patch_size' in accepted:
        # timm resamples the weights of the patch embedding to another size of patches.
        args['patch_size'] = 16
    if drop_path_rate:
        if 'drop_path_rate' not in accepted:
            raise ConfigError(f'timm:{name} has no drop path; set drop_path_rate=0.')
        args['drop_path_rate'] = drop_path_rate
    return args | given


def create(name: str, args: Mapping, **pretrained) -> TimmModel:
    import timm

    from .swin import pad_before_shift

    try:
        model = timm.create_model(name, num_classes=0, **args, **pretrained)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f'timm:{name} cannot be built with {dict(args)}: {first_line(error)}'
        ) from error
    pad_before_shift(model)
    return model


def features_of(name: str, model: TimmModel) -> dict[int, int]:
    """The last feature map of every stride that is of use: stride -> index.

    Raises:
        ConfigError: There is none.
    """
    infos = list(getattr(model, 'feature_info', None) or ())
    found = {info['reduction']: index for index, info in enumerate(infos)}
    # A stride of 64 could only be turned back into 32; strides off the powers of two fit nowhere.
    useful = {stride: index for stride, index in found.items() if stride in (*STRIDES, 64)}
    if not useful or not hasattr(model, 'forward_intermediates'):
        had = ', '.join(map(str, sorted(found))) or 'no map'
        raise ConfigError(
            f'timm:{name} cannot be a backbone: its feature maps have stride {had}, and a pyramid of '
            'strides 4, 8, 16 and 32 needs at least one of these.'
        )
    return useful


def leaves_outputs_unnormalised(model: TimmModel) -> bool:
    """Whether a model has other norms than BatchNorm.

    Such models normalise within the branches of residual blocks; their feature maps are not normalised.
    """
    kinds = {type(module) for module in model.modules()}
    if not any(issubclass(kind, _BatchNorm) for kind in kinds):
        return True
    return any(word in kind.__name__ for kind in kinds for word in _OTHER_NORMS)


def is_resnet(model: nn.Module) -> bool:
    from timm.models.resnet import ResNet

    return isinstance(model, ResNet)
