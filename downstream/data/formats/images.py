"""The image files of a data set: found, measured and named."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES
from downstream.data.images.read import read_header

# Of an image of any bands; beside an image file of the same stem it is something else.
ARRAY = '.npy'
SUFFIXES = frozenset(
    [
        '.bmp',
        '.gif',
        '.jfif',
        '.jp2',
        '.jpeg',
        '.jpg',
        '.pgm',
        '.png',
        '.ppm',
        '.tif',
        '.tiff',
        '.webp',
        ARRAY,
    ]
)
_PARTS = {
    'train': ('train', 'training', 'trainset'),
    'val': ('val', 'valid', 'validation', 'minival', 'valset', 'dev', 'eval'),
    'test': ('test', 'testing', 'testset'),
}
_PART_OF_WORD = {word: part for part, words in _PARTS.items() for word in words}


def files_below(folder: Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """Files with one of ``suffixes`` (lower case) in ``folder`` and its subfolders, sorted.

    Hidden files and folders are left out, and what macOS adds to archives. Links are followed.
    """
    suffixes, found = frozenset(suffixes), []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != '.' and name != '__MACOSX']
        found += [Path(place, name) for name in with_suffix(names, suffixes)]
    return sorted(found)


def with_suffix(names: Iterable[str], suffixes: Collection[str]) -> list[str]:
    """Names of a folder that have one of ``suffixes``; arrays only where no image has their stem."""
    ends = [(name, *os.path.splitext(name)) for name in names if name[0] != '.']
    chosen = [(name, stem, end.lower()) for name, stem, end in ends if end.lower() in suffixes]
    stems = {stem for _, stem, end in chosen if end != ARRAY}
    return [name for name, stem, end in chosen if end != ARRAY or stem not in stems]


def part_of(name: str) -> str | None:
    """The part that a file or folder name speaks of: ``'train2017'`` -> ``'train'``."""
    words = ''.join(c if c.isalpha() else ' ' for c in name.lower()).split()
    parts = {_PART_OF_WORD[word] for word in words if word in _PART_OF_WORD}
    return parts.pop() if len(parts) == 1 else None


def part_of_path(path: Path, root: Path) -> str | None:
    """The part that the folders between ``root`` and a file speak of, the innermost first."""
    for folder in path.relative_to(root).parent.parts[::-1]:
        if part := part_of(folder):
            return part
    return None


def sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of images as they are loaded: an EXIF orientation is applied.

    Raises:
        DataError: A file is missing or is no image.
    """
    bar = tqdm(paths, desc='reading sizes of images', disable=len(paths) < FULL_FILES)
    return [read_header(path).shown_size for path in bar]


def relative_names(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that contains all ``paths``, and their names relative to it."""
    absolute = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return Path(root), [Path(os.path.relpath(path, root)).as_posix() for path in absolute]


def by_stem(paths: Iterable[Path], what: str) -> dict[str, Path]:
    """Stem -> path.

    Raises:
        DataError: Two files differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f'{other} and {path} have the same stem, and {what} go by stems; rename one.'
            )
    return found


def read_text(path: Path) -> str:
    """The text in ``path``, UTF-8 with or without a byte-order mark.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise DataError(f'{path} is not UTF-8 text ({error}); save it as UTF-8.') from error
