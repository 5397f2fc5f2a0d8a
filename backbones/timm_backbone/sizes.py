"""Which image sizes a timm model takes, found by forward passes on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from backbones.errors import ConfigError
from backbones.uninitialised import on_meta
from backbones.weights.timm_catalog import first_line

from .create import TimmModel, create

# Position tables of one size, read by indices that a meta device does not check.
_ONE_SIZE = ('MultiScaleVit',)


def find_size_divisor(
    name: str, args: Mapping, indices: Sequence[int], strides: Sequence[int]
) -> int:
    """The smallest of some numbers that sides of images must be multiples of.

    1 (any size), powers of two, and the model's own input size, whose windows or partitions fit no
    other number.
    """
    with on_meta():
        model = create(name, args).eval()
    side = model.pretrained_cfg['input_size'][-1]
    why = ''
    for divisor in (1, 4, 16, 32, 64, side):
        # odd multiples: what halves them would show
        height, width = (odd_multiple(160, divisor), odd_multiple(224, divisor))
        why = _what_does_not_fit(model, indices, strides, height, width, args.get('in_chans', 3))
        if not why and type(model).__name__ not in _ONE_SIZE:
            return divisor
    raise ConfigError(
        f'timm:{name} cannot be a backbone: it was made for images of {side} x {side}, and with others '
        + (why or 'its position tables do not fit')
        + '. Take a model of convolutions, of windows or with dynamic positions.'
    )


def odd_multiple(size: int, divisor: int) -> int:
    """The smallest odd multiple of ``divisor`` that is greater than ``size``."""
    return (size // divisor + 1 | 1) * divisor


@torch.no_grad()
def run_on_meta(
    model: TimmModel, indices: Sequence[int], height: int, width: int, channels: int = 3
) -> list[Tensor]:
    """The feature maps of a timm model on the meta device for two images ``(C, height, width)``."""
    return model.forward_intermediates(
        torch.zeros(2, channels, height, width, device='meta'),
        indices=list(indices),
        output_fmt='NCHW',
        intermediates_only=True,
    )


def _what_does_not_fit(
    model: TimmModel,
    indices: Sequence[int],
    strides: Sequence[int],
    height: int,
    width: int,
    channels: int,
) -> str:
    """Why images of this size do not give maps of these strides; empty if they do."""
    try:
        maps = run_on_meta(model, indices, height, width, channels)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        return f'it fails ({first_line(error)})'
    for m, stride in zip(maps, strides):
        for size, image in zip(m.shape[-2:], (height, width)):
            if size not in (image // stride, -(-image // stride)):
                return f'a map of stride {stride} is {size} wide for an image of {image}'
    return ''
