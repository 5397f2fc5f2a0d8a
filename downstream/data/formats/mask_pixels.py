"""Pixels of mask files as class indices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import DataError
from downstream.data.files import IGNORED, open_image, shortened

from .found import Color

# The contours in VOC's colour-coded masks, which tables of its tools do not list.
_UNLABELLED = (IGNORED, (224, 224, 192))


def read_pixels(path: Path, colors: bool) -> np.ndarray:
    """Values of a mask, ``(H, W)``: of one channel, or colours packed as ``R << 16 | G << 8 | B``.

    Palette files have indices, or with ``colors`` the colours of their palette.

    Raises:
        DataError: The file is no image, or has several channels where one is needed.
    """
    with open_image(path) as image:
        try:
            if colors:
                return packed_colors(image)
            if image.mode in ('LA', 'RGB', 'RGBA'):
                channels = np.asarray(image)
                if image.mode != 'LA' and np.ptp(channels[..., :3], axis=2).any():
                    raise DataError(
                        f'{path} is coloured; a table of classes and colours is needed, e.g. '
                        'classes.csv with the lines `name,r,g,b`.'
                    )
                return channels[..., 0].astype(np.int32)
            return np.asarray(image).astype(np.int32)
        except (OSError, SyntaxError) as error:
            raise DataError(f'{path} cannot be read: {error}') from error


def packed_colors(image: Image.Image) -> np.ndarray:
    """Colours of an image, ``(H, W)`` of int32: ``R << 16 | G << 8 | B``."""
    rgb = np.asarray(image.convert('RGB')).astype(np.int32)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def is_coloured(path: Path) -> bool:
    """Whether a mask has colours: three channels that differ."""
    with open_image(path) as image:
        if image.mode not in ('RGB', 'RGBA'):
            return False
        return bool(np.ptp(np.asarray(image)[..., :3], axis=2).any())


def packed(color: Color) -> int:
    """A colour as :func:`read_pixels` gives it."""
    return color[0] << 16 | color[1] << 8 | color[2]


def unpacked(value: int) -> Color:
    """A colour as R, G, B."""
    return value >> 16, value >> 8 & 255, value & 255


def has_colors(values: Mapping) -> bool:
    """Whether the keys of ``values`` are colours."""
    return isinstance(next(iter(values)), tuple)


def to_indices(path: Path, values: Mapping) -> np.ndarray:
    """The mask in ``path`` as class indices, ``(H, W)`` of uint8; 255 is unlabelled.

    Args:
        path: A mask file.
        values: Value of a pixel -> class index, or 255.

    Raises:
        DataError: A pixel has another value, or the file cannot be read.
    """
    colors = has_colors(values)
    pixels = read_pixels(path, colors)
    found, inverse = np.unique(pixels, return_inverse=True)
    indices = [class_of(path, int(value), values, colors) for value in found]
    return np.asarray(indices, np.uint8)[inverse].reshape(pixels.shape)


def class_of(path: Path, value: int, values: Mapping, colors: bool) -> int:
    """The class of a value that :func:`read_pixels` gave; DataError if there is none."""
    key = unpacked(value) if colors else value
    if key in values:
        return values[key]
    if key in _UNLABELLED:
        return IGNORED
    raise DataError(
        f'{path} has pixels of the {"colour" if colors else "value"} {key}, which no class has; known '
        f'are {shortened(values)}.'
    )
