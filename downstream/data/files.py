"""Files of a data set as the checks see them: folders, names, and the images in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from backbones.errors import DataError

from .images.read import ImageHeader

# Of more files a sample is opened, so that a run on COCO or ADE20K starts in seconds.
FULL_FILES = 500
SAMPLE = 100
# The value of unlabelled pixels in masks that mmseg reads.
IGNORED = 255


def shortened(names: Iterable[object], limit: int = 8) -> str:
    """``names`` as one text, the first ``limit`` of them."""
    shown = [str(name) for name in names]
    return ', '.join(shown[:limit]) + (', ...' if len(shown) > limit else '')


def require_root(where: str, root: Path) -> None:
    """DataError unless the folder ``data_root`` of a data set exists."""
    if not root.is_dir():
        advice = (
            'Make it with `python tools/make_shapes.py`.'
            if root.name == 'shapes'
            else 'docs/data.md says where data sets come from and how their folders are laid out.'
        )
        raise DataError(f'{where}: the folder {root} (data_root) does not exist. {advice}')


def require_folder(where: str, key: str, folder: Path) -> None:
    """DataError unless ``folder``, which ``key`` of a data set names, exists."""
    if not folder.is_dir():
        raise DataError(f'{where}: the folder {folder} ({key}) does not exist.')


def require_files(listed_in: Path, paths: Sequence[Path]) -> None:
    """DataError unless all ``paths`` exist."""
    # Listing each folder once is fast on a network disk, where asking for every file is not.
    there = {
        folder: set(os.listdir(folder)) if folder.is_dir() else set()
        for folder in {path.parent for path in paths}
    }
    lost = [path for path in paths if path.name not in there[path.parent]]
    if lost:
        raise DataError(
            f'{len(lost)} of {len(paths)} files of {listed_in} are missing, the first: {lost[0]}'
            + _near_name(lost[0], there[lost[0].parent])
        )


def _near_name(path: Path, there: Iterable[str]) -> str:
    """What to say of a missing file whose name is there in another form."""
    if '\\' in str(path):
        return '. Its name has backslashes: write folders with /, which Windows takes as well.'
    wanted = path.stem.casefold()
    near = [name for name in there if name.casefold().startswith(f'{wanted}.')]
    return f' (there is {min(near)})' if near else ''


def some(paths: Sequence[Path], full: bool, what: str) -> Iterable[Path]:
    """All ``paths``, or an even sample of many; with ``full`` all of them, with a progress bar."""
    if full:
        return tqdm(paths, desc=f'checking {what}', disable=len(paths) < FULL_FILES)
    return paths if len(paths) <= FULL_FILES else paths[:: len(paths) // SAMPLE]


def open_image(path: Path) -> Image.Image:
    """The image in ``path``, of which the header is read.

    Raises:
        DataError: The file is not an image.
    """
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f'{path} cannot be read as an image: {error}') from error


def loaded_size(header: ImageHeader, pipeline: Iterable[Mapping]) -> tuple[tuple[int, int], bool]:
    """Width and height of an image as ``pipeline`` loads it, and whether an EXIF tag turns it.

    Loaders turn an image as its EXIF orientation says, except mmcv's ``LoadImageFromFile`` with a
    ``color_type`` that is ``'unchanged'`` or ends in ``'ignore_orientation'``.
    """
    color_types = [
        step.get('color_type', 'color')
        for step in pipeline
        if str(step.get('type')).endswith('LoadImageFromFile')
    ]
    if any(kind == 'unchanged' or kind.endswith('ignore_orientation') for kind in color_types):
        return header.size, False
    return header.shown_size, header.turned


def exif_advice(turned: bool) -> str:
    """What to do where sizes differ because of an EXIF orientation."""
    if not turned:
        return ''
    return (
        ' Its EXIF tag turns it by 90 degrees when it is loaded: annotate it as it is shown, or turn the '
        'pixels and remove the tag (`mogrify -auto-orient`).'
    )
