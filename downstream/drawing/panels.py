"""What surrounds an image in a picture: its scale, its neighbour, captions, a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from .colors import Color
from .labels import put_text, text_mask, text_px

_WHITE: Color = (255, 255, 255)
_JPEG, _JPEG_QUALITY = ('.jpg', '.jpeg'), 90


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


def captioned(image: np.ndarray, text: str, below: bool = False) -> np.ndarray:
    """An image ``(H, W, 3)`` with a line of text above or below it."""
    px = text_px(image)
    strip = np.full((text_mask(text, px).shape[0], image.shape[1], 3), 255, np.uint8)
    put_text(strip, text, 0, 0, _WHITE, px)
    return np.vstack([image, strip] if below else [strip, image])


def beside(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Images side by side, each under its title, e.g. ground truth and prediction.

    Args:
        images: Each ``(H, W, 3)`` of uint8, of the same size.
        titles: One for each.

    Returns:
        ``(H + h, N * W, 3)``.
    """
    return np.hstack([captioned(image, title) for image, title in zip(images, titles, strict=True)])


def legend(names: Mapping[int, str], palette: np.ndarray, width: int, px: int) -> np.ndarray:
    """A strip ``(H, width, 3)`` with the colour and the name of each class.

    Args:
        names: Class -> its name.
        palette: ``(N, 3)``, colours of all classes.
        width: In pixels.
        px: Height of the font in pixels.
    """
    row_px = text_mask('', px).shape[0] + 2
    places, x, row = [], 0, 0
    for index, name in names.items():
        needed = px + text_mask(name, px).shape[1] + px // 2
        if x + needed > width and x:
            x, row = 0, row + 1
        places.append((x, row * row_px, index, name))
        x += needed
    strip = np.full((row_px * (row + 1), width, 3), 255, np.uint8)
    for x, y, index, name in places:
        cv2.rectangle(
            strip,
            (x + px // 4, y + px // 4),
            (x + px, y + row_px - px // 4),
            palette[index].tolist(),
            -1,
        )
        put_text(strip, name, x + px, y, _WHITE, px)
    return strip


def file_content(picture: np.ndarray, suffix: str = '.jpg', quality: int | None = None) -> bytes:
    """A picture as the content of a file.

    JPEGs have colours of the full resolution: at half of it, the default, thin coloured lines turn black.

    Args:
        picture: ``(H, W, 3)`` of uint8, BGR.
        suffix: Of the file.
        quality: Of a JPEG, to 100; None: 90.

    Raises:
        cv2.error: OpenCV writes no files of this suffix.
    """
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality or _JPEG_QUALITY),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    _, encoded = cv2.imencode(suffix, picture, options if suffix.lower() in _JPEG else [])
    return encoded.tobytes()
