"""Cityscapes' layout: ``leftImg8bit`` and ``gtFine``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from backbones.errors import DataError
from downstream.data.files import IGNORED
from downstream.data.formats.candidate import Candidate
from downstream.data.formats.found import Found, Masks

_IMAGE = '_leftImg8bit.png'
# The ids of the 19 classes that are evaluated (cityscapesScripts, helpers/labels.py), in the order
# of their train ids.
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_TRAIN_IDS = {k: k for k in range(len(_IDS))}
_OTHERS = {key: IGNORED for key in range(34) if key not in _IDS}
_VALUES = {
    'labelTrainIds': _TRAIN_IDS,
    'labelIds': {**_OTHERS, **{key: k for k, key in enumerate(_IDS)}},
}


def recognise(source: Path) -> list[Candidate]:
    """A folder with ``leftImg8bit`` and ``gtFine``."""
    if (source / 'leftImg8bit').is_dir() and (source / 'gtFine').is_dir():
        return [Candidate('Cityscapes', source, partial(read, source), 'segmentation')]
    return []


def read(source: Path) -> Found:
    """The 19 classes that are evaluated; the test images, whose labels are not public, are left out.

    Raises:
        DataError: An image has no labels.
    """
    from mmseg.utils import cityscapes_classes

    parts, notes = {}, []
    for part in ('train', 'val'):
        images = sorted((source / 'leftImg8bit' / part).glob(f'*/*{_IMAGE}'))
        if not images:
            continue
        kinds = [kind for kind in _VALUES if _label(source, images[0], kind).is_file()]
        kind = kinds[0] if kinds else 'labelIds'
        labels = [_label(source, image, kind) for image in images]
        lost = [path for path in labels if not path.is_file()]
        if lost:
            raise DataError(
                f'{len(lost)} of {len(images)} labels are missing, the first: {lost[0]}.'
            )
        if kind == 'labelIds':
            notes.append(f'{part}: labelIds are translated into the 19 train ids')
        names = [path.relative_to(source).as_posix() for path in (*images, *labels)]
        pairs = tuple(zip(names[: len(images)], names[len(images) :]))
        parts[part] = Masks(Path(os.path.abspath(source)), pairs, _VALUES[kind])
    if not parts:
        raise DataError(f'{source}/leftImg8bit has no train/*/*{_IMAGE} and no val/*/*{_IMAGE}.')
    return Found('Cityscapes', 'segmentation', tuple(cityscapes_classes()), parts, tuple(notes))


def _label(source: Path, image: Path, kind: str) -> Path:
    folder = source / 'gtFine' / image.parent.relative_to(source / 'leftImg8bit')
    return folder / image.name.replace(_IMAGE, f'_gtFine_{kind}.png')
