"""Folders of images and masks: class indices, 0 and 255, or colours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES, IGNORED, SAMPLE, shortened
from downstream.data.formats.candidate import Candidate
from downstream.data.formats.class_table import ClassTable, find_class_table
from downstream.data.formats.found import Found, Masks
from downstream.data.formats.images import read_text, relative_names
from downstream.data.formats.mask_pixels import class_of, is_coloured, read_pixels, unpacked

from .mask_pairs import Pairs, find_pairs, require_paired

_BINARY = ('background', 'foreground')
_LOSSY = ('.jpg', '.jpeg')
# Share of pixels of a binary mask that compression or smoothing may have moved from 0 and 255.
_GREY_SHARE = 0.05
_MAX_UNNAMED = 64
_VOC_PATH = re.compile(r'VOC20\d\d')
_ADE_NAME = re.compile(r'ADE_(?:train|val)_\d{8}\.')


@dataclass(frozen=True)
class _Sample:
    """Values of the masks that were opened.

    Attributes:
        colors: Whether the values are packed colours.
        pixels: Value -> number of pixels.
        first: Value -> the first mask that has it.
        complete: Whether all masks were opened.
    """

    colors: bool
    pixels: Counter[int]
    first: dict[int, Path]
    complete: bool


@dataclass(frozen=True)
class _Kind:
    """How values are read."""

    format: str
    classes: tuple[str, ...]
    values: dict
    notes: tuple[str, ...] = ()


def recognise(source: Path) -> list[Candidate]:
    """A folder with masks of most of its images."""
    if source.is_file():
        return []
    pairs = find_pairs(source)
    masks = len(pairs.pairs) + len(pairs.masks_alone)
    if not pairs.pairs or 2 * len(pairs.pairs) < masks:
        return []
    return [Candidate('masks', source, partial(read, source, pairs), 'segmentation')]


def read(source: Path, pairs: Pairs) -> Found:
    """A set from its pairs; parts by ``ImageSets/Segmentation``, else by the names of folders.

    Raises:
        DataError: Values of masks and classes contradict each other, or nothing says what they mean.
    """
    notes = require_paired(source, pairs)
    table = find_class_table(source)
    sample = _scan([mask for _, mask, _ in pairs.pairs], table)
    kind = _kind(source, table, sample)
    values, notes = kind.values, [*notes, *kind.notes]
    notes += _notes_on_values(kind, sample)
    parts = {name: _part(chosen, values) for name, chosen in _parts(source, pairs, notes).items()}
    return Found(kind.format, 'segmentation', kind.classes, parts, tuple(notes))


def _part(pairs: list[tuple[Path, Path]], values: dict) -> Masks:
    root, names = relative_names([path for pair in pairs for path in pair])
    return Masks(root, tuple(zip(names[0::2], names[1::2])), values)


def _parts(source: Path, pairs: Pairs, notes: list[str]) -> dict[str, list[tuple[Path, Path]]]:
    lists = {
        path.stem: set(read_text(path).split())
        for path in (source / 'ImageSets' / 'Segmentation').glob('*.txt')
        if path.stem in ('train', 'val', 'test')
    }
    parts: dict[str, list[tuple[Path, Path]]] = {}
    if lists:
        for image, mask, _ in pairs.pairs:
            for part, stems in lists.items():
                if image.stem in stems:
                    parts.setdefault(part, []).append((image, mask))
        return {name: parts[name] for name in ('train', 'val', 'test') if name in parts}
    for image, mask, part in pairs.pairs:
        parts.setdefault(part, []).append((image, mask))
    if 'all' in parts and len(parts) > 1:
        count = len(parts.pop('all'))
        if count > sum(map(len, parts.values())):
            raise DataError(f'{source}: {count} images are in no folder of train, val or test.')
        notes.append(f'{count} images in no folder of train, val or test are left out')
    return {name: parts[name] for name in ('train', 'val', 'test', 'all') if name in parts}


def _scan(masks: list[Path], table: ClassTable | None) -> _Sample:
    """Values of all masks, or of an even sample of many."""
    step = 1 if len(masks) <= FULL_FILES else len(masks) // SAMPLE
    chosen = masks[::step]
    if table is not None and table.values is not None:
        colors = isinstance(next(iter(table.values)), tuple)
    else:
        colors = any(map(is_coloured, chosen))
    pixels: Counter[int] = Counter()
    first: dict[int, Path] = {}
    for path in tqdm(chosen, desc='reading masks', disable=len(chosen) < SAMPLE):
        for value, count in zip(*np.unique(read_pixels(path, colors), return_counts=True)):
            pixels[int(value)] += int(count)
            first.setdefault(int(value), path)
    return _Sample(colors, pixels, first, step == 1)


def _kind(source: Path, table: ClassTable | None, sample: _Sample) -> _Kind:
    if table is not None and table.values is not None:
        return _kind_of_table(table, table.values, sample)
    if sample.colors:
        raise DataError(
            f'{source}: masks are coloured ({shortened(_shown(sample), 6)}), but no file says which '
            f'colour is which class; write {source}/classes.csv with the lines `name,r,g,b`.'
        )
    names = table.classes if table is not None else None
    if (names is None or len(names) <= 2) and (binary := _binary_kind(names, sample)):
        return binary
    if table is not None:
        return _kind_of_names(table, sample)
    return _known_kind(source, sample) or _unnamed_kind(source, sample)


def _shown(sample: _Sample) -> list:
    values = [value for value, _ in sample.pixels.most_common()]
    return [unpacked(value) for value in values] if sample.colors else values


def _kind_of_table(table: ClassTable, stated: Mapping, sample: _Sample) -> _Kind:
    values, notes = dict(stated), []
    if not sample.colors and 0 in sample.pixels and 0 not in values:
        values[0] = IGNORED
        notes.append(f'value 0 is unlabelled: {table.path} does not list it')
    for value, path in sample.first.items():
        class_of(path, value, values, sample.colors)
    name = 'colour masks' if sample.colors else 'index masks'
    return _Kind(name, table.classes, values, tuple(notes))


def _kind_of_names(table: ClassTable, sample: _Sample) -> _Kind:
    """Class k has value k."""
    count = len(table.classes)
    values = set(sample.pixels)
    if values <= {0, IGNORED} and IGNORED in values and count > 1:
        raise DataError(
            f'masks have the values 0 and 255 alone, e.g. {sample.first[IGNORED]}, but {table.path} '
            f'names {count} classes.'
        )
    wrong = sorted(value for value in values if value >= count and value != IGNORED)
    if wrong == [count]:
        raise DataError(
            f'{sample.first[count]} has the value {count}, but {table.path} names {count} classes, for '
            f'0 to {count - 1}. If 0 is a class, name it in the first line (background); if 0 is '
            f'unlabelled, write {table.path.parent}/classes.csv with the lines `name,value`.'
        )
    if wrong:
        raise DataError(
            f'{sample.first[wrong[0]]} has the value {wrong[0]} in {sample.pixels[wrong[0]]} pixels, '
            f'but {table.path} names {count} classes, for 0 to {count - 1}.'
        )
    return _Kind('index masks', table.classes, {k: k for k in range(count)})


def _binary_kind(names: tuple[str, ...] | None, sample: _Sample) -> _Kind | None:
    """Masks of 0 and 255 (or 0 and 1, 0 and another value); None if they are something else."""
    names = _BINARY if not names else (_BINARY[0], *names) if len(names) == 1 else names
    values = set(sample.pixels)
    total = sample.pixels.total()
    near = sum(n for value, n in sample.pixels.items() if value <= 32 or 223 <= value <= 255)
    if values <= {0, 1}:
        return _Kind('index masks', names, {0: 0, 1: 1})
    if values <= {0, IGNORED}:
        return _Kind('binary masks', names, {0: 0, IGNORED: 1})
    lossy = any(path.suffix.lower() in _LOSSY for path in sample.first.values())
    smoothed = total - near <= _GREY_SHARE * total and (lossy or len(values) > _MAX_UNNAMED)
    if not smoothed or max(values) > 255 or max(values) < 223:
        return None
    note = (
        f'masks are binary, but have greys as well ({len(values)} values): below 128 is '
        f'{names[0]}, from 128 {names[1]}'
    )
    return _Kind('binary masks', names, {v: int(v >= 128) for v in range(256)}, (note,))


def _known_kind(source: Path, sample: _Sample) -> _Kind | None:
    """ADE20K's and VOC's own masks, whose classes no file lists."""
    last = max(set(sample.pixels) - {IGNORED}, default=0)
    path = next(iter(sample.first.values()))
    if _ADE_NAME.match(path.name) and last <= 150:
        from mmseg.utils import ade_classes

        names = tuple(ade_classes())
        return _Kind('index masks', names, {0: IGNORED, **{k + 1: k for k in range(len(names))}})
    if _VOC_PATH.search(str(source.resolve())) and last <= 20:
        from mmseg.utils import voc_classes

        names = tuple(voc_classes())
        return _Kind('index masks', names, {k: k for k in range(len(names))})
    return None


def _unnamed_kind(source: Path, sample: _Sample) -> _Kind:
    values = sorted(set(sample.pixels) - {IGNORED})
    if len(values) > 1 and values[-1] < _MAX_UNNAMED and 2 * len(values) > values[-1]:
        names = tuple(f'class_{k}' for k in range(values[-1] + 1))
        note = (
            f'no file names the classes: value k is class_k, {len(names)} in all, and 255 is '
            f'unlabelled; write a name a line into {source}/classes.txt'
        )
        return _Kind('index masks', names, {k: k for k in range(len(names))}, (note,))
    raise DataError(
        f'{source}: masks have the values {shortened(values)}, and no file says what they mean; write '
        f'{source}/classes.csv with the lines `name,value`.'
    )


def _notes_on_values(kind: _Kind, sample: _Sample) -> list[str]:
    """Classes that no mask has; DataError if none has any."""
    present = {
        kind.values.get(unpacked(value) if sample.colors else value) for value in sample.pixels
    }
    absent = [name for k, name in enumerate(kind.classes) if k not in present]
    if len(absent) == len(kind.classes):
        raise DataError(f'no mask has a class: values are {shortened(_shown(sample))}.')
    if not absent:
        return []
    where = 'no mask has' if sample.complete else f'none of {SAMPLE} masks that were opened has'
    return [f'{where} the classes {shortened(absent)}']
