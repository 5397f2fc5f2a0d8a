"""A folder or file -> what it holds. Formats are told apart by themselves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from backbones.errors import ConfigError, DataError

from .candidate import Candidate
from .found import Found
from .polygons import as_masks
from .read import cityscapes, coco, labelme, masks, via, voc, yolo

_READERS = (coco, yolo, voc, labelme, via)
_MASK_READERS = (cityscapes, masks)
_TASKS = (None, 'detection', 'segmentation')
_FORMATS = (
    'COCO instances, YOLO, Pascal VOC, labelme or VIA for detection; a mask for each image (class '
    "indices, 0 and 255, or colours), Cityscapes' layout or polygons for segmentation"
)


def find(source: Path, task: str | None = None) -> Found:
    """Read a data set.

    Args:
        source: Its folder; or a COCO file, a YOLO ``data.yaml``, a list of images (YOLO's labels
            beside them), a labelme file.
        task: ``'detection'`` or ``'segmentation'``; None if the annotations decide.

    Returns:
        The set with its classes and parts. Nothing is written.

    Raises:
        DataError: Nothing or too much is recognised, or a file is wrong; the message names it.
        ConfigError: ``task`` is none.
    """
    source = Path(os.path.abspath(source))
    if task not in _TASKS:
        raise ConfigError(f'task={task!r}: it is detection or segmentation.')
    if not source.exists():
        raise DataError(f'the data set {source} does not exist.')
    try:
        candidates = _candidates(source)
    except FileNotFoundError as error:
        raise DataError(
            f'{error.filename} is a link to a file that is not there. Mend it, or remove it.'
        ) from error
    wanted = [c for c in candidates if task is None or c.task == task]
    notes = []
    if task == 'segmentation':
        # A mask for each image was made for segmentation; polygons may serve.
        others = [c for c in candidates if c.task == 'detection']
        if wanted and others:
            names = ', '.join(f'{c.format} ({c.source})' for c in others)
            notes.append(f'masks of images are used, not the annotations of objects: {names}')
        wanted = wanted or others
    if not wanted:
        raise DataError(_nothing(source, task, candidates))
    if len(wanted) > 1:
        raise DataError(_several(source, wanted))
    found = _in_order(wanted[0].read())
    if task == 'segmentation' and found.task == 'detection':
        found = as_masks(found)
    return found.with_notes(*notes)


def _in_order(found: Found) -> Found:
    """Training, validation, test; a part that is alone is the whole set."""
    if len(found.parts) == 1:
        return replace(found, parts={'all': next(iter(found.parts.values()))})
    order = [name for name in ('train', 'val', 'test', 'all') if name in found.parts]
    return replace(found, parts={name: found.parts[name] for name in order})


def _candidates(source: Path) -> list[Candidate]:
    found = [candidate for reader in _READERS for candidate in reader.recognise(source)]
    for reader in _MASK_READERS:
        if masked := reader.recognise(source):
            return [*found, *masked]
    return found


def _nothing(source: Path, task: str | None, candidates: list[Candidate]) -> str:
    if candidates:
        names = ', '.join(dict.fromkeys(c.format for c in candidates))
        return f'{source} holds {names} for {candidates[0].task}, nothing for {task}.'
    seen = ''
    if source.is_dir():
        content = sorted(path.name for path in source.iterdir())[:8]
        seen = f'; it has {", ".join(content)}' if content else '; it is empty'
    return f'{source}: no annotations were recognised{seen}. Known are {_FORMATS}.'


def _several(source: Path, candidates: list[Candidate]) -> str:
    if len({c.task for c in candidates}) > 1:
        names = ' and '.join(f'{c.format} for {c.task}' for c in candidates)
        return f'{source} holds {names}; name the task (det or seg), or the file to read.'
    named = [f'{c.source} ({c.format})' for c in candidates if c.source != source]
    rest = [c.format for c in candidates if c.source == source]
    advice = ' or '.join(named) if named else 'a folder that holds one of them alone'
    also = f'; or move {", ".join(rest)} away' if named and rest else ''
    formats = ' and '.join(dict.fromkeys(c.format for c in candidates))
    return f'{source} holds several annotations: {formats}. Name one with --data: {advice}{also}.'
