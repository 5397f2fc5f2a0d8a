"""Files of a data set while a run goes on: whole, within the data set's folders, or named in an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from backbones.errors import DataError

_PATHS = {'image': 'img_path', 'annotations': 'seg_map_path'}
_JPEG, _PNG = b'\xff\xd8', b'\x89PNG'
_TAIL = 32


class UnreadableError(DataError):
    """A file cannot be read, or is not where files of its data set must be."""


class GuardedLoader:
    """A transform that loads files, and says which one it could not.

    Args:
        transform: The one that loads.
        roots: Absolute folders within which files must be.
    """

    def __init__(self, transform: Callable, roots: Sequence[str]) -> None:
        self.transform, self.roots = transform, roots
        kind = 'image' if 'Image' in type(transform).__name__ else 'annotations'
        self.key = _PATHS[kind]

    def __call__(self, results: dict) -> dict | None:
        path = results.get(self.key)
        if isinstance(path, str):
            require_within(path, self.roots)
        try:
            loaded = self.transform(results)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if isinstance(error, AssertionError):  # mmcv's, for what OpenCV makes nothing of
                reason = 'it is no image, or cut off'
            raise UnreadableError(
                f'{path or results.get("img_path")} cannot be read: {reason}'
            ) from error
        if isinstance(path, str) and is_cut_off(path):
            # OpenCV before 4.12 fills the rest with grey.
            raise UnreadableError(f'{path} cannot be read: it is cut off')
        return loaded

    def __repr__(self) -> str:
        return repr(self.transform)


def guard(dataset: object) -> None:
    """Put a :class:`GuardedLoader` around every transform of a data set that loads files."""
    for part in _innermost(dataset):
        roots = _roots(part)
        for steps in _lists_of_transforms(getattr(part, 'pipeline', None)):
            steps[:] = [
                GuardedLoader(step, roots) if type(step).__name__.startswith('Load') else step
                for step in steps
            ]


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
    """UnreadableError unless ``path`` lies in one of the folders ``roots``, which are absolute.

    Names in annotation files decide which files are opened. Links within the folders are their
    owner's business and are followed.
    """
    place = _absolute(str(path))
    if not any(place == root or place.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise UnreadableError(
            f'{path} lies outside of {roots[0]}: a name in the annotations leads out of the data set. '
            "If that is meant, set data_root to a folder that holds both, e.g. data_root='/'."
        )


def is_cut_off(path: str | Path) -> bool:
    """Whether the file of a JPEG or PNG ends before its image does.

    The end of the file decides, where it is as it should be. A damaged middle goes unnoticed.
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
    # Something may follow the image; the slow way says whether it is whole.
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return True
    return False
