"""An image file of any bands and bit depth as a picture to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from .loading import picture_of_bands
from .read import ImageHeader, read_bands, read_header


def is_ordinary(header: ImageHeader) -> bool:
    """Whether every decoder makes the same 8-bit picture of an image."""
    return header.dtype == np.uint8 and header.bands <= 4 and (header.is_color or header.bands == 1)


def picture_of_file(path: Path, header: ImageHeader | None = None) -> np.ndarray:
    """The image in ``path``, RGB ``(H, W, 3)`` of uint8, turned by its EXIF orientation.

    16-bit values are shown as they are loaded without ``--bands``, divided by 256. Of images of other
    bands or values the first three bands, or the first one, are shown, stretched.

    Args:
        path: The file.
        header: Its header, if it has been read.

    Raises:
        DataError: It is no image.
        OSError: It is cut off.
    """
    header = header or read_header(path)
    if header.dtype == np.uint16 and header.bands <= 4 and header.is_color:
        image = cv2.imread(str(path))
        if image is not None:
            return np.ascontiguousarray(image[..., ::-1])
    if not is_ordinary(header):
        return picture_of_bands(read_bands(Path(path).read_bytes(), path))
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert('RGB'))
