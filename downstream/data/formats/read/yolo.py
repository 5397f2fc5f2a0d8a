"""YOLO's text files: a box or a polygon a line, relative to the size of the image."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES
from downstream.data.formats.candidate import Candidate
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import SUFFIXES, files_below, part_of_path, read_text
from downstream.data.formats.instances import InstancesBuilder, box_of, image_entries

from .yolo_files import class_names, images_of_list, read_yaml

# Rounding puts edges a little outside; what is further outside are pixels, not shares of the image.
_TOLERANCE = 0.01
_NO_LABELS = frozenset(('classes.txt', 'train.txt', 'val.txt', 'test.txt', 'labels.txt'))


def recognise(source: Path) -> list[Candidate]:
    """A ``data.yaml``, a list of images, or a folder of images and labels."""
    if source.is_file():
        if source.suffix in ('.yaml', '.yml'):
            return [Candidate('YOLO', source, partial(read_yaml_set, source))]
        if source.suffix == '.txt':
            return [Candidate('YOLO', source, partial(read_list, source))]
        return []
    sets = [path for path in sorted(source.glob('*.y*ml')) if _names_a_set(path)]
    if sets:
        return [Candidate('YOLO', path, partial(read_yaml_set, path)) for path in sets]
    if any(_is_label(path) for path in files_below(source, ['.txt'])[:200]):
        return [Candidate('YOLO', source, partial(read_folder, source))]
    return []


def _names_a_set(path: Path) -> bool:
    text = read_text(path)
    return 'names:' in text and re.search(r'^(?:train|val)\s*:', text, re.MULTILINE) is not None


def _is_label(path: Path) -> bool:
    """Whether a text file has an image of its stem, beside it or in YOLO's folder of images."""
    stem, folder = path.stem, path.parent
    images = Path(*('images' if part == 'labels' else part for part in folder.parts))
    return any(
        (place / f'{stem}{suffix}').is_file() for place in {folder, images} for suffix in SUFFIXES
    )


def read_yaml_set(path: Path) -> Found:
    """A set from its ``data.yaml``.

    Raises:
        DataError: A file is missing, or a line of a label file is wrong.
    """
    classes, lists, notes = read_yaml(path)
    same = lists.get('train') and lists.get('train') == lists.get('val')
    if same:
        notes.append(f'{path} names the same images for training and validation: they are one part')
        lists = {'all': lists['train']}
    return _found(path, classes, lists, notes)


def read_list(path: Path) -> Found:
    """A set from a text file with the path of an image a line."""
    images = images_of_list(path, path.parent)
    return _found(path, class_names(path.parent), {'all': images}, [])


def read_folder(source: Path) -> Found:
    """A set from a folder of images and labels, parts by the names of folders."""
    lists: dict[str, list[Path]] = {}
    for path in files_below(source):
        lists.setdefault(part_of_path(path, source) or 'all', []).append(path)
    if 'all' in lists and len(lists) > 1:
        raise DataError(
            f'{source}: {len(lists["all"])} images are in no folder of train, val or test, the first: '
            f'{lists["all"][0]}.'
        )
    return _found(source, class_names(source), lists, [])


def label_files(images: Sequence[Path]) -> list[Path]:
    """Where the labels of images are.

    The last ``images`` of their path is ``labels``, if there is such a folder; else beside them.
    """
    folders = {folder: _label_folder(folder) for folder in {image.parent for image in images}}
    return [folders[image.parent] / f'{image.stem}.txt' for image in images]


def _label_folder(folder: Path) -> Path:
    parts = list(folder.parts)
    if 'images' in parts:
        place = len(parts) - 1 - parts[::-1].index('images')
        labels = Path(*parts[:place], 'labels', *parts[place + 1 :])
        if labels.is_dir():
            return labels
    return folder


def _found(
    source: Path, classes: tuple[str, ...], lists: dict[str, list[Path]], notes: list[str]
) -> Found:
    parts = {}
    for name, images in lists.items():
        if not images:
            raise DataError(f'{source}: no images for {name}.')
        parts[name] = _read_part(name, images, classes, notes)
    read = {path for images in lists.values() for path in label_files(images)}
    folders = {path.parent for path in read}
    texts = {folder / name for folder in folders for name in _texts(folder)}
    orphans = sorted(path for path in texts - read if path.name not in _NO_LABELS)
    if orphans and source.suffix != '.txt':  # a list may name a part of the images
        notes.append(f'{len(orphans)} label files have no image, the first: {orphans[0]}')
    return Found('YOLO', 'detection', classes, parts, tuple(notes))


def _read_part(
    name: str, images: list[Path], classes: tuple[str, ...], notes: list[str]
) -> Instances:
    labels = label_files(images)
    twice = next((b for a, b in pairwise(sorted(labels)) if a == b), None)
    if twice:
        raise DataError(f'two images of {name} have the labels {twice}; rename one.')
    there = {folder: _texts(folder) for folder in {path.parent for path in labels}}
    builder = InstancesBuilder(*image_entries(images), classes)
    unlabelled = 0
    bar = tqdm(labels, desc='reading labels', disable=len(labels) < FULL_FILES)
    for image, path in enumerate(bar):
        if path.name in there[path.parent]:
            _read_label(path, image, classes, builder)
        else:
            unlabelled += 1
    if unlabelled == len(images):
        raise DataError(f'none of the {len(images)} images of {name} has labels, e.g. {labels[0]}.')
    if unlabelled:
        notes.append(f'{name}: {unlabelled} of {len(images)} images have no label file: no objects')
    return builder.result()


def _texts(folder: Path) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    return frozenset(name for name in os.listdir(folder) if name.endswith('.txt'))


def _read_label(
    path: Path, image: int, classes: tuple[str, ...], builder: InstancesBuilder
) -> None:
    width, height = builder.size(image)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = _values(words, len(classes))
        except ValueError as error:
            raise DataError(f'{path}:{number}: {error} ({line.strip()!r:.80})') from error
        scaled = [v * (height if i % 2 else width) for i, v in enumerate(values)]
        if len(scaled) == 4:
            x, y, w, h = scaled
            builder.add(image, int(float(words[0])), [x - w / 2, y - h / 2, w, h])
        else:
            builder.add(image, int(float(words[0])), box_of([scaled]), [scaled])


def _values(words: list[str], classes: int) -> list[float]:
    """The coordinates of a line; ValueError says what is wrong."""
    try:
        kind, *values = map(float, words)
    except ValueError:
        raise ValueError(
            'a line must be numbers: class x y width height, or class x y x y ...'
        ) from None
    if not kind.is_integer() or not 0 <= kind < classes:
        raise ValueError(f'class {words[0]} of {classes}: it must be 0 to {classes - 1}')
    if len(values) == 5:
        raise ValueError('5 values follow the class; are these predictions with a confidence?')
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f'{len(values)} values follow the class; it must be 4 for a box, or an even number '
            'from 6 for a polygon'
        )
    outside = [v for v in values if not -_TOLERANCE <= v <= 1 + _TOLERANCE]
    if outside:
        raise ValueError(f'{outside[0]:g} is not between 0 and 1: divide by the size of the image')
    if len(values) == 4 and min(values[2:]) < 0:
        raise ValueError('a width or height is negative')
    return values
