"""Files and folders that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import ConfigError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the name ``path`` when the block has ended.

    After an error what was written is removed, and a file that had the name before is untouched. Where
    nothing was written, nothing appears.

    Args:
        path: Its folder is made. A folder of this name must be empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, of a name that no other process takes, and with the suffix that encoders go by.
    aside = path.with_name(f'.{os.urandom(4).hex()}-{path.name}')
    try:
        yield aside
        if aside.exists():
            aside.replace(path)
    except BaseException:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic(path: Path, mode: str = 'w', flush: bool = False) -> Iterator[IO]:
    """A file to write, in UTF-8 if it is text, that becomes ``path`` when the block has ended.

    Args:
        path: As for :func:`atomic_path`.
        mode: ``'w'`` or ``'wb'``.
        flush: Write it through to the disk, so that it outlasts a machine that fails.
    """
    encoding, newline = (None, None) if 'b' in mode else ('utf-8', '')
    with atomic_path(path) as aside:
        with aside.open(mode, encoding=encoding, newline=newline) as file:
            yield file
        if flush:
            flush_to_disk(aside)


def require_folder(path: Path) -> None:
    """Check, before work is done for it, that files can be written into a folder.

    Args:
        path: A folder, or one that is yet to be made.

    Raises:
        ConfigError: It is a file or within one, or this user may not write there.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f'{there} is a file; give a folder for what is written.')
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f'{there} is not writable for this user; give another folder.')


def flush_to_disk(path: Path) -> None:
    """Write a file or the entries of a folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
