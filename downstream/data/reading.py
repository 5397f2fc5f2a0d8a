"""Checked reading: files of a data set are complete, within its folders, or named in an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import DataError

from .images.loading import LoadBands
from .images.read import UnreadableError, oriented, read_header

__all__ = [
    'CheckedLoader',
    'UnreadableError',
    'check_reading',
    'is_cut_off',
    'loaders_of',
    'require_within',
]

_PATHS = {'image': 'img_path', 'annotations': 'seg_map_path'}
_JPEG, _PNG = b'\xff\xd8', b'\x89PNG'
_TAIL = 32


class CheckedLoader:
    """A transform that loads a file and names it where that fails.

    Args:
        transform: The one that loads.
        roots: Absolute folders that the files must be in.
    """

    def __init__(self, transform: Callable, roots: Sequence[str]) -> None:
        self.transform, self.roots = transform, roots
        self.loads_image = isinstance(transform, LoadBands) or 'Image' in type(transform).__name__
        self.key = _PATHS['image' if self.loads_image else 'annotations']

    def __call__(self, results: dict) -> dict | None:
        """Load; ``results`` are those of the transform.

        Raises:
            UnreadableError: The file is no image, is cut off, or is outside of the data set's folders.
            DataError: The annotations of an image do not have what the transform loads.
        """
        path = results.get(self.key)
        if isinstance(path, str):
            require_within(path, self.roots)
        try:
            loaded = self.transform(results)
        except DataError:
            raise  # which names the file
        except Exception as error:
            raise self._named(error, path, results) from error
        if isinstance(path, str) and is_cut_off(path):
            # OpenCV before 4.12 fills the rest with grey.
            raise UnreadableError(f'{path} cannot be read: it is cut off')
        if self.loads_image and isinstance(path, str):
            self._turn_webp(loaded, path)
        return loaded

    def image(self, path: str) -> np.ndarray:
        """The image in a file, as the transform loads it.

        Raises:
            UnreadableError: As of a call.
        """
        loaded = self({'img_path': path})
        if (
            loaded is None
        ):  # what ``ignore_empty`` of the transform makes of a file that is no image
            raise UnreadableError(f'{path} cannot be read: it is no image, or cut off')
        return loaded['img']

    def _turn_webp(self, loaded: dict | None, path: str) -> None:
        """Apply the EXIF orientation of a WebP file, which OpenCV applies to all formats but this."""
        decoder = getattr(self.transform, 'imdecode_backend', None)
        color_type = getattr(self.transform, 'color_type', None)
        if decoder != 'cv2' or color_type not in ('color', 'grayscale') or not loaded:
            return
        if not os.path.isfile(path) or not is_webp(path):
            return
        loaded['img'] = oriented(loaded['img'], read_header(path).orientation)
        loaded['img_shape'] = loaded['ori_shape'] = loaded['img'].shape[:2]

    def _named(self, error: Exception, path: str | None, results: dict) -> DataError:
        """What to raise in the place of an error of the transform."""
        image = results.get('img_path')
        if not self.loads_image and not isinstance(path, str):
            # Nothing was opened: the annotations came with the data set.
            if isinstance(error, KeyError) and error.args == ('mask',):
                return DataError(
                    f'an annotation of {image} has no segmentation, but masks are to be loaded '
                    '(with_mask=True): docs/data.md, "Boxes without masks".'
                )
            return DataError(
                f'the annotations of {image} cannot be loaded: {type(error).__name__}: {error}'
            )
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, AssertionError):  # mmcv asserts that cv2.imdecode returned an image
            reason = 'it is no image, or cut off'
        return UnreadableError(f'{path or image} cannot be read: {reason}')

    def __repr__(self) -> str:
        return repr(self.transform)


def check_reading(dataset: object) -> None:
    """Put a :class:`CheckedLoader` around every transform of a data set that loads files."""
    for part in _innermost(dataset):
        roots = _roots(part)
        for steps in _lists_of_transforms(getattr(part, 'pipeline', None)):
            steps[:] = [
                CheckedLoader(step, roots) if type(step).__name__.startswith('Load') else step
                for step in steps
            ]


def loaders_of(dataset: object) -> Iterator[CheckedLoader]:
    """The checked loaders of a data set, in the order of its pipeline."""
    for part in _innermost(dataset):
        for steps in _lists_of_transforms(getattr(part, 'pipeline', None)):
            yield from (step for step in steps if isinstance(step, CheckedLoader))


def _innermost(dataset: object) -> Iterator[object]:
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inner:
        if part is None:
            yield dataset
        else:
            yield from _innermost(part)


def _lists_of_transforms(pipeline: object) -> Iterator[list]:
    """The list of transforms in ``pipeline``, and those nested in it."""
    steps = pipeline if isinstance(pipeline, list) else getattr(pipeline, 'transforms', None)
    if isinstance(steps, list):
        yield steps
        for step in steps:
            yield from _lists_of_transforms(step)
    for branch in getattr(pipeline, 'subroutines', None) or ():
        yield from _lists_of_transforms(branch)


def _roots(dataset: object) -> list[str]:
    prefixes = getattr(dataset, 'data_prefix', None) or {}
    folders = [getattr(dataset, 'data_root', None), *prefixes.values()]
    return [_absolute(folder) for folder in folders if folder] or [os.getcwd()]


def _absolute(path: str) -> str:
    scheme, mark, place = path.rpartition('://')
    return scheme + mark + os.path.normpath(place) if mark else os.path.abspath(path)


def require_within(path: str | Path, roots: Sequence[str]) -> None:
    """UnreadableError unless ``path`` is in one of the folders ``roots``, which are absolute.

    Names in annotation files decide which files are opened. Links within the folders are followed:
    whoever owns the folder made them.
    """
    place = _absolute(str(path))
    if not any(place == root or place.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise UnreadableError(
            f'{path} is outside of {roots[0]}: a name in the annotations leads out of the data set. '
            "If this is intended, set data_root to a folder that contains both, e.g. data_root='/'."
        )


def is_webp(path: str | Path) -> bool:
    """Whether a file begins as a WebP image does."""
    with open(path, 'rb') as file:
        start = file.read(12)
    return start[:4] == b'RIFF' and start[8:] == b'WEBP'


def is_cut_off(path: str | Path) -> bool:
    """Whether a JPEG or PNG file ends before its image does.

    A proper end of the file is enough; a damaged middle goes unnoticed.
    """
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        head = file.read(4)
        if head[:2] != _JPEG and head != _PNG:
            return False
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read()
    if tail.rstrip(b'\0').endswith(b'\xff\xd9') if head[:2] == _JPEG else b'IEND' in tail:
        return False
    # Something may follow the image; decoding it shows whether it is complete.
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return True
    return False
