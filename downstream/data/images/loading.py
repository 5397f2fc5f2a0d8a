"""Loading images of any number of bands, 8-bit, 16-bit or float, without loss."""

from __future__ import annotations

from collections.abc import Sequence

import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from backbones.errors import ConfigError, DataError

from .read import read_bands

# Values below and above which a picture is black and white, in percent of the pixels.
_CONTRAST = (2, 98)


@TRANSFORMS.register_module()
class LoadBands(BaseTransform):
    """Loads chosen bands of an image: ``img`` ``(H, W, len(bands))``, uint8 or float32.

    8-bit bands stay uint8; all others become float32, which holds 16 bits exactly. Colour images have the
    bands R, G, B (and alpha), in this order. An EXIF orientation is applied.

    Args:
        bands: Numbers of the bands in the order in which the network gets them, counted from 1.
        picture_bands: Up to three places in ``bands``, counted from 1, that are R, G and B in pictures;
            None: the first three, or the first alone where there are fewer.
        fill: What replaces NaN and infinity; None: they are an error.
        backend_args: As in mmcv's ``LoadImageFromFile``.

    Raises:
        ConfigError: ``bands`` or ``picture_bands`` are no positive integers.
    """

    def __init__(
        self,
        bands: Sequence[int],
        picture_bands: Sequence[int] | None = None,
        fill: float | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.bands = checked_bands(bands)
        shown = picture_bands or range(1, 4 if len(self.bands) >= 3 else 2)
        self.picture_bands = checked_bands(shown, 'picture_bands')
        if len(self.picture_bands) not in (1, 3) or max(self.picture_bands) > len(self.bands):
            raise ConfigError(
                f'picture_bands={tuple(shown)}: give one or three places in bands={self.bands}.'
            )
        self.fill = fill
        self.backend_args = dict(backend_args) if backend_args else None

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape`` to ``results``, which has ``img_path``.

        Raises:
            DataError: The file is no image, has too few bands, or values that are not finite.
        """
        path = results['img_path']
        image = read_bands(mmengine.fileio.get(path, self.backend_args), path)
        if max(self.bands) > image.shape[2]:
            raise DataError(f'{path} {too_few_bands(image.shape[2], self.bands)}.')
        image = image[..., [band - 1 for band in self.bands]]
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
            self._fill(image, path)
        image = np.ascontiguousarray(image)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _fill(self, image: np.ndarray, path: str) -> None:
        """Replace NaN and infinity in place; DataError where ``fill`` is None."""
        wrong = ~np.isfinite(image)
        if not wrong.any():
            return
        if self.fill is None:
            raise DataError(
                f'{path} has {int(wrong.sum())} values that are NaN or infinite; give LoadBands a value '
                'in their place, e.g. fill=0.0.'
            )
        image[wrong] = self.fill

    def picture(self, image: np.ndarray) -> np.ndarray:
        """An image of this loader as a picture, ``(H, W, 3)`` of uint8, RGB.

        8-bit values are shown as they are. Others are stretched, band by band, from their 2nd to their
        98th percentile.
        """
        return as_picture(image[..., [place - 1 for place in self.picture_bands]])

    def __repr__(self) -> str:
        return f'{type(self).__name__}(bands={self.bands}, picture_bands={self.picture_bands})'


def picture_of_bands(image: np.ndarray) -> np.ndarray:
    """The first three bands of ``image`` ``(H, W, C)``, or the first of fewer, as a picture."""
    return as_picture(image[..., : 3 if image.shape[2] >= 3 else 1])


def as_picture(image: np.ndarray) -> np.ndarray:
    """One band or three, ``(H, W, 1 or 3)``, as a picture ``(H, W, 3)`` of uint8, RGB.

    8-bit values are shown as they are. Others are stretched, band by band, from their 2nd to their
    98th percentile; values that are not finite are black.
    """
    if image.dtype != np.uint8:
        values = np.where(np.isfinite(image), image, np.nan).astype(np.float32)
        if np.isnan(values).all():
            return np.zeros((*image.shape[:2], 3), np.uint8)
        low, high = np.nanpercentile(values, _CONTRAST, axis=(0, 1))
        values = (values - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
        image = (255 * np.nan_to_num(values).clip(0, 1)).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def checked_bands(bands: Sequence[int], name: str = 'bands') -> tuple[int, ...]:
    """``bands`` as a tuple; ConfigError unless they are positive integers."""
    given = [bands] if isinstance(bands, int) else list(bands)
    if not given or not all(isinstance(band, int) and band > 0 for band in given):
        raise ConfigError(f'{name}={bands!r}: give numbers of bands, counted from 1.')
    return tuple(given)


def too_few_bands(found: int, bands: Sequence[int]) -> str:
    """What is wrong with a file that lacks bands."""
    wanted = ', '.join(map(str, bands))
    return f'has {found} band{"s" * (found != 1)}; bands {wanted} are to be read'
