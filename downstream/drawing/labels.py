"""Text on images: legible at every size of image, and where it covers no other text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import Color

_SMALLEST_PX = 11
_SIDE_PER_PX = 75
_PADDING = 0.25  # of the height of the font, at the sides of a text

Box = tuple[int, int, int, int]


def text_px(image: np.ndarray) -> int:
    """The font's height in pixels that is legible when an image ``(H, W, ...)`` fills a screen."""
    return max(_SMALLEST_PX, round(max(image.shape[:2]) / _SIDE_PER_PX))


@lru_cache(maxsize=32)
def _font(px: int) -> ImageFont.FreeTypeFont:
    # OpenCV's own fonts have ASCII alone; matplotlib, which mmengine needs, brings DejaVu: Latin, Greek,
    # Cyrillic and others.
    return ImageFont.truetype(str(_data_path() / 'fonts' / 'ttf' / 'DejaVuSans.ttf'), px)


def _data_path() -> Path:
    """matplotlib's data, found without its import, which takes longer than a picture, if possible."""
    spec = find_spec('matplotlib')
    folder = Path(spec.origin or '').parent / 'mpl-data' if spec else Path()
    if spec and folder.is_dir():
        return folder
    import matplotlib

    return Path(matplotlib.get_data_path())


@lru_cache(maxsize=2048)
def text_mask(text: str, px: int) -> np.ndarray:
    """How much ink each pixel of a text gets, ``(H, W)`` of uint8, with a margin at its sides.

    Args:
        text: One line.
        px: Height of the font in pixels.
    """
    font = _font(px)
    margin = max(1, round(px * _PADDING))
    ascent, descent = font.getmetrics()
    width = max(1, round(font.getlength(text))) + 2 * margin
    image = Image.new('L', (width, ascent + descent))
    ImageDraw.Draw(image).text((margin, 0), text, fill=255, font=font)
    return np.asarray(image)


def put_text(image: np.ndarray, text: str, left: int, top: int, color: Color, px: int) -> Box:
    """Write a text on a ground of ``color``, in place; what lies outside of the image is cut off.

    Args:
        image: ``(H, W, 3)`` of uint8.
        text: One line.
        left: Of the ground, in pixels.
        top: The same.
        color: In the order of the image's channels. The ink is black or white.
        px: Height of the font in pixels.

    Returns:
        Left, top, right and bottom of the ground, before the cut.
    """
    ink = text_mask(text, px)
    height, width = ink.shape
    y, x = max(0, top), max(0, left)
    part = ink[y - top : image.shape[0] - top, x - left : image.shape[1] - left, None]
    if part.size:
        # sRGB's weights but for the order of red and blue, which a threshold this coarse does not see
        bright = 0.25 * color[0] + 0.55 * color[1] + 0.2 * color[2] > 115
        target = np.asarray((0, 0, 0) if bright else (255, 255, 255), np.int32)
        ground = np.asarray(color, np.int32)
        image[y : y + part.shape[0], x : x + part.shape[1]] = (
            ground + (target - ground) * part // 255
        )
    return left, top, left + width, top + height


def free_place(
    box: Sequence[float], size: tuple[int, int], shape: tuple[int, int], taken: np.ndarray
) -> tuple[int, int]:
    """Where the label of a box covers no other label: above the box, below it or within it.

    Args:
        box: Left, top, right, bottom in pixels.
        size: Width and height of the label.
        shape: Height and width of the image.
        taken: ``(N, 4)``: left, top, right and bottom of the labels before it.

    Returns:
        Left and top of the label. Where no place is free, the one of which least is covered.
    """
    width, height = size
    left, top, right, bottom = (round(float(value)) for value in box)
    places = np.array(
        [
            (left, top - height),
            (left, top),
            (right - width, top - height),
            (left, bottom),
            (left, bottom - height),
            (right - width, bottom - height),
            (left, (top + bottom - height) // 2),
        ]
    )
    places = np.clip(places, 0, np.maximum(0, (shape[1] - width, shape[0] - height)))
    if not len(taken):
        return int(places[0, 0]), int(places[0, 1])
    ends = np.add(places, (width, height))
    overlap = np.minimum(ends[:, None], taken[None, :, 2:]) - np.maximum(
        places[:, None], taken[None, :, :2]
    )
    covered = overlap.clip(0).prod(-1).sum(-1)
    x, y = places[covered.argmin()]
    return int(x), int(y)
