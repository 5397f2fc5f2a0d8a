"""Atomic checkpoint files: written under another name, flushed, renamed, with a digest beside each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from backbones.errors import UserError, WeightsError
from backbones.weights.download import sha256
from downstream.atomic import atomic, flush_to_disk

from .read import read

# What a run saves that is stopped by a signal; the next regular checkpoint replaces it.
INTERRUPTED = 'interrupted.pth'
_PARTIAL = '.partial'
_RESUME = 'earlier checkpoints are untouched. Make room and start again with --resume.'


class SavingError(UserError, OSError):
    """A checkpoint, or another file of a run, cannot be written."""


def cannot_be_written(path: str | Path, error: OSError, advice: str = _RESUME) -> SavingError:
    """The error to raise for ``error``, which was raised while ``path`` was written."""
    return SavingError(f'{path} cannot be written ({error.strerror or error}); {advice}')


@contextmanager
def raise_on_full_disk(folder: str | Path, advice: str = _RESUME) -> Iterator[None]:
    """Raise a SavingError where a file in ``folder`` cannot be written because the disk is full.

    Python's own error often names no file.

    Args:
        folder: To name where the error names no file.
        advice: What to do, for the message.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path = error.filename or f'A file in {folder}'
        raise cannot_be_written(path, error, advice) from error


def unfinished(name: str) -> str:
    """The name under which the checkpoint ``name`` is written before it is complete."""
    return f'.{name}{_PARTIAL}'


def publish(folder: Path, name: str) -> None:
    """Rename a complete checkpoint from :func:`unfinished` to ``name``; write its digest beside it.

    A kill at any moment leaves either the old file or the new one under the name. A file without a
    digest is complete, because it was renamed.
    """
    aside, target = folder / unfinished(name), folder / name
    flush_to_disk(aside)
    digest = sha256(aside)
    record = _record(target)
    record.unlink(missing_ok=True)
    aside.replace(target)
    write_text(record, f'{digest}  {name}\n')
    flush_to_disk(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    with atomic(path, flush=True) as file:
        file.write(text)


def remove(path: Path) -> None:
    """Delete a checkpoint and its digest."""
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.sha256')


def newest_whole(work_dir: str | Path, mmap: bool = False) -> tuple[Path, dict] | None:
    """The checkpoint of a work dir to resume from and its content; None if there is no intact one.

    It is the one of the latest iteration, as the file itself records it: a copy of a work dir may have
    any modification times. They decide between two of the same iteration. Damaged files are skipped
    with a warning. Of the others only the structure is read.

    Args:
        work_dir: Where a run has saved its checkpoints.
        mmap: As in :func:`.read.read`.
    """
    found = []
    for path in Path(work_dir).glob('*.pth'):
        if not path.name.startswith(('epoch_', 'iter_', INTERRUPTED)):
            continue
        try:
            iteration = iteration_of(read(path, mmap=True))
        except WeightsError as error:
            _log_skipped(error)
        else:
            found.append((iteration, path.stat().st_mtime_ns, path))
    for _, _, path in sorted(found, reverse=True):
        try:
            return path, verified(path, mmap)
        except WeightsError as error:
            _log_skipped(error)
    return None


def iteration_of(content: dict) -> int:
    """The iteration that a checkpoint was saved after; -1 where it does not record one."""
    meta = content.get('meta')
    iteration = meta.get('iter') if isinstance(meta, dict) else None
    return iteration if isinstance(iteration, int) else -1


def _log_skipped(error: WeightsError) -> None:
    print_log(f'Skipping a damaged checkpoint: {error}', 'current', level=30)


def verified(path: str | Path, mmap: bool = False) -> dict:
    """The content of a checkpoint that agrees with its digest, if there is one.

    Raises:
        WeightsError: It is damaged.
    """
    if Path(path).is_file():
        _require_digest(Path(path))
    return read(path, mmap)


def _require_digest(path: Path) -> None:
    record = _record(path)
    if not record.is_file():
        return
    words = record.read_text().split()
    digest = sha256(path)
    if not words or words[0] != digest:
        raise WeightsError(
            f'{path} is damaged: its SHA-256 is {digest[:12]}..., {record.name} has '
            f'{words[0][:12] + "..." if words else "none"}.'
        )
