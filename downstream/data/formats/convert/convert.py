"""A set -> a folder in another format."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from backbones.errors import ConfigError, DataError
from downstream.data.formats.found import Found

from . import coco, labelme, masks, voc, yolo

# Name -> task and writer. A writer gets the set, an empty folder and whether to copy images; it
# returns what the format cannot hold, a sentence each.
FORMS: dict[str, tuple[str, Callable[[Found, Path, bool], list[str]]]] = {
    'coco': ('detection', coco.write),
    'yolo': ('detection', yolo.write),
    'voc': ('detection', voc.write),
    'labelme': ('detection', labelme.write),
    'masks': ('segmentation', masks.write),
}


def task_of(form: str) -> str:
    """The task that a format is for; ConfigError if it is not known."""
    if form not in FORMS:
        raise ConfigError(f'{form!r} is no format to write; known are {", ".join(FORMS)}.')
    return FORMS[form][0]


def convert(found: Found, folder: Path, form: str, copy: bool = False) -> list[str]:
    """Write a set in another format, completely or not at all.

    Args:
        found: The set.
        folder: A folder that is made; it must not hold anything.
        form: A key of :data:`FORMS`.
        copy: Copy the images; otherwise the folder has links to them.

    Returns:
        What the format cannot hold and is lost, a sentence each.

    Raises:
        ConfigError: The format is not known, or not for the task of the set.
        DataError: The folder has content, or a mask is wrong.
    """
    task, write = task_of(form), FORMS[form][1]
    if found.task != task:
        raise ConfigError(f'{form} is for {task}, but the set is for {found.task}.')
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f'{folder} exists; name a new folder.')
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        notes = write(found, aside, copy)
        aside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return notes
