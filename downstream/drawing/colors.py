"""A colour for each class, the same in every picture and for both tasks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Color = tuple[int, int, int]
# The golden ratio: hues of neighbouring numbers are far apart, and no later class moves an earlier one.
_HUE_STEP = 0.618034
_FIRST_HUE = 0.33
_TONES = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.65))  # saturation and value
BACKGROUND: Color = (40, 40, 40)


@lru_cache(maxsize=4096)
def class_color(index: int) -> Color:
    """RGB of a class, the same whatever other classes there are."""
    saturation, value = _TONES[index % len(_TONES)]
    hue = (_FIRST_HUE + index * _HUE_STEP) % 1
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def class_palette(classes: Sequence[str] | int) -> np.ndarray:
    """RGB of each class, ``(N, 3)`` of uint8.

    A class named ``background`` is dark and takes no colour from the others: the objects of a detection
    data set have the same colours in the segmentation data set that lists them after a background.

    Args:
        classes: Names, or how many there are.
    """
    names = [''] * classes if isinstance(classes, int) else list(classes)
    colors, used = np.empty((len(names), 3), np.uint8), 0
    for place, name in enumerate(names):
        if name.lower() == 'background':
            colors[place] = BACKGROUND
        else:
            colors[place] = class_color(used)
            used += 1
    return colors
