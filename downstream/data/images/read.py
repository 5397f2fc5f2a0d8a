"""Image files as they come: what a header says, and all bands of a file without loss.

OpenCV, which reads the images of ordinary recipes, makes 8-bit BGR of everything. What is here keeps the
number of bands and their values: arrays (``.npy``), TIFFs of any number of bands (an extra, ``[tiff]``),
and all other formats as OpenCV decodes them unchanged, with R first.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from backbones.errors import DataError

NPY = b'\x93NUMPY'
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_EXIF_ORIENTATION = 274
_SAMPLE_FORMAT, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _PHOTOMETRIC = 339, 258, 277, 262
# Bands of a file as OpenCV decodes it unchanged, by Pillow's mode: palettes become colours.
_BANDS = {'1': 1, 'L': 1, 'I': 1, 'F': 1, 'LA': 4, 'PA': 4, 'RGBA': 4, 'RGBa': 4}


class UnreadableError(DataError):
    """A file cannot be read, or is not within the folders of its data set."""


@dataclass(frozen=True)
class ImageHeader:
    """What the header of a file says.

    Attributes:
        size: Width and height of the pixels as they are stored.
        bands: How many values a pixel has.
        dtype: Their type, ``uint8``, ``uint16``, ``float32``, ...
        orientation: The EXIF or TIFF tag, 1 (as stored) to 8.
        is_color: Whether three bands or more are colours, as far as the file says.
    """

    size: tuple[int, int]
    bands: int
    dtype: np.dtype
    orientation: int = 1
    is_color: bool = True

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height after the orientation has been applied."""
        return self.size[::-1] if self.turned else self.size

    @property
    def turned(self) -> bool:
        """Whether the orientation exchanges width and height."""
        return self.orientation >= 5


def read_header(path: str | Path) -> ImageHeader:
    """The header of an image file; the pixels are not read.

    Raises:
        DataError: The file is no image, or is a TIFF of many bands and tifffile is not installed.
    """
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(0)
        try:
            if start.startswith(NPY):
                return _array_header(np.load(path, mmap_mode='r', allow_pickle=False))
            if start.startswith(TIFF):
                return _tiff_header(file, path)
            return _pillow_header(Image.open(file), start, file)
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise UnreadableError(f'{path} cannot be read as an image: {error}') from error


def read_bands(data: bytes, name: str | Path) -> np.ndarray:
    """All bands of an image, turned as its orientation says.

    Args:
        data: The content of the file.
        name: For messages.

    Returns:
        ``(H, W, C)`` in the dtype of the file; colour images have R first. Pages of a TIFF are bands.

    Raises:
        DataError: It is no image, its layout is not clear, or a package is missing.
    """
    if data.startswith(NPY):
        try:
            return _bands_last(np.load(io.BytesIO(data), allow_pickle=False))
        except ValueError as error:
            raise UnreadableError(f'{name} cannot be read: {error}') from error
    if data.startswith(TIFF):
        return _read_tiff(data, name)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnreadableError(f'{name} cannot be read: it is no image, or cut off')
    if image.ndim == 3:
        code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, code)
    else:
        image = image[..., None]
    return oriented(image, stored_orientation(data))


def stored_orientation(data: bytes) -> int:
    """The EXIF orientation of an image, 1 if it has none."""
    try:
        return _valid(Image.open(io.BytesIO(data)).getexif().get(_EXIF_ORIENTATION, 1))
    except (UnidentifiedImageError, OSError):
        return 1


def oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """``image`` ``(H, W, ...)`` as it is to be shown, by its EXIF orientation (1 to 8)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _pillow_header(image: Image.Image, start: bytes, file: BinaryIO) -> ImageHeader:
    dtype: np.dtype = np.dtype('uint8')
    if start.startswith(b'\x89PNG'):
        file.seek(24)  # the bit depth of IHDR; Pillow shows 16-bit colours as 8-bit ones
        dtype = np.dtype('uint16') if file.read(1) == b'\x10' else dtype
    elif image.mode.startswith('I') or image.mode == 'F':
        dtype = np.dtype('uint16' if image.mode.startswith('I;16') else 'float32')
    if image.format == 'GIF':
        return ImageHeader(image.size, 3, dtype)
    transparent = image.mode == 'P' and 'transparency' in image.info
    bands = 1 if image.mode.startswith('I;') else _BANDS.get(image.mode, 4 if transparent else 3)
    orientation = _valid(image.getexif().get(_EXIF_ORIENTATION, 1))
    return ImageHeader(image.size, bands, dtype, orientation)


def _array_header(array: np.ndarray) -> ImageHeader:
    height, width, bands = _bands_last(array).shape
    return ImageHeader((width, height), bands, array.dtype, is_color=False)


def _bands_last(array: np.ndarray) -> np.ndarray:
    """``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` as ``(H, W, C)``; the bands are the fewest."""
    if array.ndim == 2:
        return array[..., None]
    first, _, last = array.shape if array.ndim == 3 else (0, 0, 0)
    if array.ndim == 3 and last < min(array.shape[:2]):
        return array
    if array.ndim == 3 and first < min(array.shape[1:]):
        return np.moveaxis(array, 0, 2)
    raise ValueError(
        f'an array of shape {array.shape} is not clearly (H, W), (H, W, bands) or (bands, H, W) with '
        'fewer bands than rows and columns'
    )


def _tiff_header(file: BinaryIO, path: str | Path) -> ImageHeader:
    if find_spec('tifffile'):
        with _opened_tiff(file, path) as tiff:
            parts = _parts(tiff)
            axes, shape, dtype = parts[0].axes, parts[0].shape, parts[0].dtype
            height, width = shape[axes.index('Y')], shape[axes.index('X')]
            bands = len(parts) * math.prod(shape) // (height * width)
            dtype = np.dtype('uint8') if dtype.kind == 'b' else dtype
            is_color = tiff.pages[0].photometric.name not in ('MINISBLACK', 'MINISWHITE')
            return ImageHeader((width, height), bands, dtype, _tiff_orientation(tiff), is_color)
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise DataError(_needs_tifffile(path)) from error
    if not isinstance(image, TiffImageFile):
        raise DataError(_needs_tifffile(path))
    tags = image.tag_v2
    kind = {1: 'uint', 2: 'int', 3: 'float'}.get(_first(tags.get(_SAMPLE_FORMAT, 1)), 'uint')
    dtype = np.dtype(f'{kind}{max(8, _first(tags.get(_BITS_PER_SAMPLE, 8)))}')
    orientation = _valid(tags.get(_EXIF_ORIENTATION, 1))
    # Pillow exchanges the sides by itself.
    size = image.size[::-1] if orientation >= 5 else image.size
    is_color = tags.get(_PHOTOMETRIC, 2) > 1
    return ImageHeader(size, tags.get(_SAMPLES_PER_PIXEL, 1), dtype, orientation, is_color)


def _first(value: int | tuple[int, ...]) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _needs_tifffile(name: str | Path) -> str:
    return (
        f"{name}: reading the bands of a TIFF needs tifffile: pip install 'convnext-dense[tiff]'."
    )


@contextmanager
def _opened_tiff(file: BinaryIO, name: str | Path) -> Iterator[Any]:
    """A ``tifffile.TiffFile``; what tifffile raises becomes a DataError."""
    try:
        import tifffile
    except ImportError as error:
        raise DataError(_needs_tifffile(name)) from error
    try:
        with tifffile.TiffFile(file) as tiff:
            yield tiff
    except Exception as error:  # tifffile raises whatever its decoders do
        reason = (str(error) or type(error).__name__).splitlines()[0]
        # It is named where a compression needs it.
        hint = " (pip install 'convnext-dense[tiff]')" if 'imagecodecs' in reason else ''
        if hint:
            raise DataError(f'{name} cannot be read: {reason}{hint}') from error
        raise UnreadableError(f'{name} cannot be read: {reason}') from error


def _parts(tiff: Any) -> list:
    """What is read of a TIFF: its first series, or all of its pages if they are alike."""
    first = tiff.series[0]
    if not {'Y', 'X'} <= set(first.axes):
        raise ValueError(f'its axes are {first.axes}, not rows and columns')
    alike = all(s.shape == first.shape and s.dtype == first.dtype for s in tiff.series)
    return list(tiff.series) if first.axes == 'YX' and alike else [first]


def _tiff_orientation(tiff: Any) -> int:
    tag = tiff.pages[0].tags.get(_EXIF_ORIENTATION)
    return _valid(int(tag.value)) if tag else 1


def _read_tiff(data: bytes, name: str | Path) -> np.ndarray:
    with _opened_tiff(io.BytesIO(data), name) as tiff:
        if tiff.pages[0].photometric.name == 'PALETTE':
            raise ValueError('its values are indices into a palette; save it as RGB')
        images = []
        for part in _parts(tiff):
            places = [part.axes.index(axis) for axis in 'YX']
            image = np.moveaxis(part.asarray(), places, (0, 1))
            images.append(image.reshape(*image.shape[:2], -1))
        image = np.concatenate(images, axis=2)
        image = image.astype(np.uint8) * 255 if image.dtype == bool else image
        return oriented(image, _tiff_orientation(tiff))
