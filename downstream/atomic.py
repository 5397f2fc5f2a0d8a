"""Files and folders that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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


@contextmanager
def atomic_files(folder: Path, former: Iterable[str] = ()) -> Iterator[Path]:
    """A folder to write files to, all of which are in ``folder`` when the block has ended.

    After an error ``folder`` is as it was before; it does not appear if it was not there.

    Args:
        folder: It may have other files, which stay. Files of the same names are replaced.
        former: Names of files that are removed if the block has not written them.
    """
    if not folder.exists():
        with atomic_path(folder) as aside:
            aside.mkdir()
            yield aside
            if folder.exists():  # somebody else has made it meanwhile
                with tempfile.TemporaryDirectory(prefix='.old-', dir=folder) as replaced:
                    _exchange(folder, aside, Path(replaced), former)
                aside.rmdir()
        return
    with tempfile.TemporaryDirectory(prefix='.new-', dir=folder) as inside:
        new, old = Path(inside, 'new'), Path(inside, 'old')
        new.mkdir()
        old.mkdir()
        yield new
        _exchange(folder, new, old, former)


def _exchange(folder: Path, new: Path, old: Path, former: Iterable[str]) -> None:
    """Move all files of ``new`` to ``folder``, after ``former`` and what has their names to ``old``.

    After an error all are where they were.
    """
    names = sorted(path.name for path in new.iterdir())
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        moved.append((target, source))
        source.replace(target)

    try:
        # All of the old ones first: whatever happens, none of them is beside a new one.
        for name in dict.fromkeys([*former, *names]):
            if (folder / name).exists():
                move(folder / name, old / name)
        for name in names:
            move(new / name, folder / name)
    except BaseException:
        for there, back in reversed(moved):
            if not back.exists():
                there.replace(back)
        raise


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
