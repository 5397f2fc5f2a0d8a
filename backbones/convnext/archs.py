"""The published sizes of ConvNeXt and ConvNeXt V2."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """Numbers of blocks and of channels of the four stages."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


def _doubling(depths: tuple[int, ...], width: int) -> Arch:
    return Arch(depths, (width, 2 * width, 4 * width, 8 * width))


_SMALL_ARCHS = {
    'atto': _doubling((2, 2, 6, 2), 40),
    'femto': _doubling((2, 2, 6, 2), 48),
    'pico': _doubling((2, 2, 6, 2), 64),
    'nano': _doubling((2, 2, 8, 2), 80),
    'tiny': _doubling((3, 3, 9, 3), 96),
    'small': _doubling((3, 3, 27, 3), 96),
    'base': _doubling((3, 3, 27, 3), 128),
    'large': _doubling((3, 3, 27, 3), 192),
}


# V1: Table 9 of the paper; atto to nano are timm's. V2: section 4 of the paper; small is timm's.
CONVNEXT_ARCHS = {**_SMALL_ARCHS, 'xlarge': _doubling((3, 3, 27, 3), 256)}


CONVNEXTV2_ARCHS = {**_SMALL_ARCHS, 'huge': _doubling((3, 3, 27, 3), 352)}


@dataclass(frozen=True)
class IsotropicArch:
    """Number of blocks, and of channels, at the one resolution of an isotropic ConvNeXt.

    Attributes:
        layer_scale: Whether the released weights have layer scale.
    """

    depth: int
    dim: int
    layer_scale: bool


# Section 3.3 of V1's paper; layer scale as in the official training commands.
ISOTROPIC_ARCHS = {
    'small': IsotropicArch(18, 384, False),
    'base': IsotropicArch(18, 768, False),
    'large': IsotropicArch(36, 1024, True),
}
