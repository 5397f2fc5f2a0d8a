"""Feature maps of one stride computed from another, as in ViTDet's simple feature pyramid."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from backbones.layers import LayerNorm2d


def nearest_stride(stride: int, strides: Iterable[int]) -> int:
    """The one of ``strides`` that a map of ``stride`` is made from; the finer of two."""
    return min(sorted(strides), key=lambda s: max(s / stride, stride / s))


def can_be_made(channels: int, source: int, target: int) -> bool:
    """Whether :func:`pyramid_level` has layers between two strides: powers of two, enough channels."""
    finer, coarser = sorted((source, target))
    factor, rest = divmod(coarser, finer)
    is_power = rest == 0 and factor & (factor - 1) == 0
    return is_power and (source <= target or channels >= factor)


def pyramid_level(channels: int, source: int, target: int) -> tuple[nn.Module | None, int]:
    """The layers from a map of stride ``source`` to one of stride ``target``, and its channels.

    Each halving of the stride is a transposed 2x2 convolution that halves the channels, with
    LayerNorm and GELU between two of them; each doubling is a 2x2 max pooling. Source: Li et al. 2022
    ("Exploring Plain Vision Transformer Backbones for Object Detection"), section 3.

    Returns:
        None for the layers if the strides are equal.
    """
    layers: list[nn.Module] = []
    while source > target:
        if layers:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        source, channels = source // 2, channels // 2
    while source < target:
        # ceil_mode: a map of an odd size keeps its last row and column
        layers.append(nn.MaxPool2d(kernel_size=2, ceil_mode=True))
        source *= 2
    return (nn.Sequential(*layers) if layers else None), channels
