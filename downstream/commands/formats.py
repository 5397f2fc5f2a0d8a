"""What tools/data.py does with the files of a data set: split, convert, list classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from downstream.data.files import FULL_FILES, IGNORED, SAMPLE
from downstream.data.formats.convert import convert as convert_set
from downstream.data.formats.convert import task_of
from downstream.data.formats.find import find
from downstream.data.formats.found import Found, Masks, counts
from downstream.data.formats.split import split as split_set
from downstream.data.formats.write import index_masks, write


def split(
    source: Path,
    out: Path | None = None,
    share: float = 0.2,
    seed: int = 0,
    task: str | None = None,
) -> None:
    """Divide a set into training and validation, and write both parts as files.

    Args:
        source: A folder or file of a data set.
        out: Folder for the annotations and the lists of images; None: ``work_dirs/split_<name>``.
        share: Of the images, for validation.
        seed: Of the choice.
        task: ``'detection'`` or ``'segmentation'``, where the set could be both.
    """
    out = out or Path('work_dirs', f'split_{source.stem}')
    found = split_set(find(source, task), share, seed)
    written = write(found, out)
    _say(found)
    _print_classes(found)
    for name, path in written.lists.items():
        print(f'{name}: {written.datasets[name]["ann_file"]}; images are listed in {path}')


def convert(
    source: Path, target: Path, form: str, task: str | None = None, copy: bool = False
) -> None:
    """Write a set in another format.

    Args:
        source: A folder or file of a data set.
        target: A new folder.
        form: A format, a key of :data:`~downstream.data.formats.convert.FORMS`.
        task: None: that of the format.
        copy: Copy the images; otherwise the folder has links to them.
    """
    found = find(source, task or task_of(form))
    lost = convert_set(found, target, form, copy)
    _say(found)
    for note in lost:
        print(note)
    images = sum(count.images for count in counts(found).values())
    print(
        f'{target}: {images} images, {len(found.classes)} classes, parts {", ".join(found.parts)}'
    )


def classes(source: Path, task: str | None = None) -> None:
    """Print the classes of a set with how much there is of each.

    Args:
        source: A folder or file of a data set.
        task: ``'detection'`` or ``'segmentation'``, where the set could be both.
    """
    found = find(source, task)
    _say(found)
    _print_classes(found)


def _say(found: Found) -> None:
    print(f'{found.format}, {found.task}, {len(found.classes)} classes')
    for note in found.notes:
        print(note)


def _print_classes(found: Found) -> None:
    """A table of classes: objects of each part, or the share of its pixels."""
    amounts = {name: _amounts(found, name) for name in found.parts}
    table = Table('class', *(f'{name}: {amounts[name][0]}' for name in found.parts))
    for place, name in enumerate(found.classes):
        table.add_row(name, *(amounts[part][1][place] for part in found.parts))
    Console().print(table)


def _amounts(found: Found, name: str) -> tuple[str, list[str]]:
    """What is counted in a part, and its number for each class."""
    part = found.parts[name]
    if isinstance(part, Masks):
        return _pixel_shares(part, found.classes, name)
    count = counts(found)[name]
    heading = f'objects in {count.images} images'
    return heading, [str(count.per_class[one]) for one in found.classes]


def _pixel_shares(part: Masks, names: tuple[str, ...], name: str) -> tuple[str, list[str]]:
    """Of all masks, or of an even sample of many."""
    step = 1 if len(part.pairs) <= FULL_FILES else len(part.pairs) // SAMPLE
    chosen = Masks(part.root, part.pairs[::step], part.values, part.instances)
    pixels = np.zeros(256, np.int64)
    for _, mask in index_masks(chosen, names, name):
        pixels += np.bincount(mask.ravel(), minlength=256)
    labelled = max(1, int(pixels.sum() - pixels[IGNORED]))
    heading = f'% of labelled pixels in {len(chosen.pairs)} of {len(part.pairs)} masks'
    return heading, [f'{100 * pixels[k] / labelled:.2f}' for k in range(len(names))]
