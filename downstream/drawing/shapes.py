"""Boxes and regions on images, in place."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .colors import Color

_SIDE_PER_PX = 320
# OpenCV's drawing functions take 16 bits for a coordinate in places; boxes may lie far outside.
_FAR_PX = 30000


def line_px(image: np.ndarray) -> int:
    """The thickness of lines in pixels that is seen when an image ``(H, W, ...)`` fills a screen."""
    return max(1, round(max(image.shape[:2]) / _SIDE_PER_PX))


def draw_box(image: np.ndarray, box: Sequence[float], color: Color) -> None:
    """Draw a box with a dark rim, in place.

    Args:
        image: ``(H, W, 3)`` of uint8.
        box: Left, top, right, bottom in pixels.
        color: In the order of the image's channels.
    """
    left, top, right, bottom = (round(v) for v in np.clip(box, -_FAR_PX, _FAR_PX).tolist())
    thickness = line_px(image)
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), thickness + 2)
    cv2.rectangle(image, (left, top), (right, bottom), color, thickness)


def draw_region(
    image: np.ndarray,
    region: np.ndarray,
    color: Color,
    opacity: float = 0.45,
    outline: bool = True,
    place: tuple[int, int] = (0, 0),
) -> None:
    """Tint a region and outline it, in place.

    Args:
        image: ``(H, W, 3)`` of uint8.
        region: ``(H, W)`` of bool or of uint8, 0 outside; or a part of the image.
        color: In the order of the image's channels.
        opacity: 0 to 1.
        outline: Whether the region's border is drawn in the full colour.
        place: Left and top of ``region`` in the image.
    """
    pixels = np.ascontiguousarray(region).view(np.uint8)
    if not pixels.size:
        return
    x, y, width, height = cv2.boundingRect(pixels)
    if not width:
        return
    # Only the surroundings of the region are touched: most objects are a small part of their image.
    inner = pixels[y : y + height, x : x + width]
    x, y = x + place[0], y + place[1]
    part = image[y : y + height, x : x + width]
    tinted = cv2.addWeighted(part, 1 - opacity, np.full_like(part, color), opacity, 0)
    cv2.copyTo(tinted, inner, part)
    if outline:
        outlines, _ = cv2.findContours(
            inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x, y)
        )
        cv2.drawContours(image, outlines, -1, color, line_px(image))
