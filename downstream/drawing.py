"""Drawing annotations on images: boxes, outlines, masks, with a colour for each class."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Color = tuple[int, int, int]
# The golden ratio: hues of neighbouring numbers are far apart, and no later class moves an earlier one.
_HUE_STEP = 0.618034
_FIRST_HUE = 0.33
_TONES = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.65))  # saturation and value
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_color(index: int) -> Color:
    """RGB of a class, the same whatever other classes there are."""
    saturation, value = _TONES[index % len(_TONES)]
    hue = (_FIRST_HUE + index * _HUE_STEP) % 1
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def fitted(image: np.ndarray, longest: int, enlarge: bool = False) -> tuple[np.ndarray, float]:
    """An image whose longer side is at most ``longest``, and the factor it was scaled by.

    Args:
        image: ``(H, W, 3)`` or ``(H, W)``.
        longest: In pixels.
        enlarge: Whether a smaller image is enlarged.
    """
    factor = longest / max(image.shape[:2])
    if factor >= 1 and not enlarge:
        return image, 1.0
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=how), factor


def draw_box(image: np.ndarray, box: Sequence[float], color: Color, label: str = '') -> None:
    """Draw a box in place, with a label above it or, at the upper border, within it.

    Args:
        image: ``(H, W, 3)`` of uint8.
        box: x, y, width, height in pixels.
        color: In the order of the image's channels.
        label: A short text.
    """
    height, width = image.shape[:2]
    left, top = (round(value) for value in box[:2])
    right, bottom = round(box[0] + box[2]), round(box[1] + box[3])
    thickness = max(1, round(max(height, width) / 500))
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), thickness + 2)
    cv2.rectangle(image, (left, top), (right, bottom), color, thickness)
    if label:
        size = max(0.4, max(height, width) / 2000)
        (text_width, text_height), below = cv2.getTextSize(label, _FONT, size, 1)
        x = int(np.clip(left, 0, max(0, width - text_width - 4)))
        y = max(top, text_height + below + 2)
        cv2.rectangle(image, (x, y - text_height - below - 2), (x + text_width + 4, y), color, -1)
        ink = (0, 0, 0) if sum(color) > 330 else (255, 255, 255)
        cv2.putText(image, label, (x + 2, y - below), _FONT, size, ink, 1, cv2.LINE_AA)


def draw_region(image: np.ndarray, region: np.ndarray, color: Color, opacity: float = 0.45) -> None:
    """Tint a region in place and outline it.

    Args:
        image: ``(H, W, 3)`` of uint8.
        region: ``(H, W)`` of bool.
        color: In the order of the image's channels.
        opacity: 0 to 1.
    """
    image[region] = (image[region] * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)
    outlines, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(image, outlines, -1, color, 1)


def legend(names: Mapping[int, str], width: int) -> np.ndarray:
    """A strip ``(H, width, 3)`` with the colour and the name of each class."""
    rows: list[list[tuple[int, int, str]]] = [[]]
    x = 4
    for index, name in names.items():
        needed = 22 + cv2.getTextSize(name, _FONT, 0.42, 1)[0][0] + 10
        if x + needed > width and rows[-1]:
            rows.append([])
            x = 4
        rows[-1].append((x, index, name))
        x += needed
    strip = np.full((20 * len(rows), width, 3), 255, np.uint8)
    for row, entries in enumerate(rows):
        for x, index, name in entries:
            cv2.rectangle(strip, (x, 20 * row + 4), (x + 14, 20 * row + 16), class_color(index), -1)
            cv2.putText(
                strip, name, (x + 20, 20 * row + 15), _FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA
            )
    return strip
