"""Checkpoints that are whole or not there: written aside, flushed, renamed, with a digest beside each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from backbones.errors import UserError, WeightsError
from backbones.weights.download import sha256

from . import read as checkpoints

# What a run that is told to stop saves; the next regular checkpoint takes its place.
INTERRUPTED = 'interrupted.pth'
_PARTIAL = '.partial'


class SavingError(UserError, OSError):
    """A checkpoint, or another file of a run, cannot be written."""


def cannot_be_written(path: str | Path, error: OSError) -> SavingError:
    """The error to raise for ``error``, met while ``path`` was written."""
    return SavingError(
        f'{path} cannot be written ({error.strerror or error}); earlier checkpoints are untouched. '
        'Make room and start again with --resume.'
    )


@contextmanager
def full_disk_told(folder: str | Path) -> Iterator[None]:
    """Raise a SavingError where a log or a config meets a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise cannot_be_written(error.filename or f'A file in {folder}', error) from error


def unfinished(name: str) -> str:
    """The name under which the checkpoint ``name`` is written before it is whole."""
    return f'.{name}{_PARTIAL}'


def publish(folder: Path, name: str) -> None:
    """Give a checkpoint that has been written aside its name, and write its digest beside it.

    A kill at any moment leaves either the old file or the new one under the name; a file without digest
    is whole, because it was renamed.
    """
    aside, target = folder / unfinished(name), folder / name
    _flush(aside)
    digest = sha256(aside)
    record = _record(target)
    record.unlink(missing_ok=True)
    aside.replace(target)
    write_text(record, f'{digest}  {name}\n')
    _flush(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole."""
    aside = path.with_name(unfinished(path.name))
    aside.write_text(text)
    _flush(aside)
    aside.replace(path)


def remove(path: Path) -> None:
    """Delete a checkpoint and its digest."""
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.sha256')


def _flush(path: Path) -> None:
    """Bring a file or the entries of a folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_whole(work_dir: str | Path) -> tuple[Path, dict] | None:
    """The newest checkpoint of a work dir that is whole, and its content; None if there is none.

    Damaged ones are skipped with a warning.
    """
    found = Path(work_dir).glob('*.pth')
    candidates = [p for p in found if p.name.startswith(('epoch_', 'iter_', INTERRUPTED))]
    for path in sorted(candidates, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            return path, verified(path)
        except WeightsError as error:
            print_log(f'Skipping a damaged checkpoint: {error}', 'current', level=30)
    return None


def verified(path: str | Path) -> dict:
    """The content of a checkpoint whose digest, if there is one, is right.

    Raises:
        WeightsError: It is damaged.
    """
    path = Path(path)
    record = _record(path)
    if path.is_file() and record.is_file():
        words = record.read_text().split()
        digest = sha256(path)
        if not words or words[0] != digest:
            raise WeightsError(
                f'{path} is damaged: its SHA-256 is {digest[:12]}..., {record.name} says '
                f'{words[0][:12] if words else "nothing"}...'
            )
    return checkpoints.read(path)
