"""Checkpoints written beside the training: a thread, one file at a time, from a copy in host memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# So many times its size must be free before a checkpoint is copied: the copy, and air.
_AIR = 2


class Writer:
    """Runs one job at a time in a thread; what goes wrong in it is raised at the next occasion."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start ``job`` after the one before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name='checkpoint')
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Return when nothing is being written; raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong, without waiting."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def snapshot(content: dict) -> dict | None:
    """A copy that training does not change; None where memory is too short for one."""
    free = free_memory()
    if free is not None and free < _AIR * size_of(content):
        return None
    return copy.deepcopy(content)


def size_of(content: object) -> int:
    """Bytes of the tensors in nested dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(size_of, content.values()))
    return sum(map(size_of, content)) if isinstance(content, (list, tuple)) else 0


def free_memory() -> int | None:
    """Bytes of host memory that this process may still take; None where the system does not say."""
    limits = []
    meminfo = Path('/proc/meminfo')
    if meminfo.is_file():
        lines = dict(line.split(':', 1) for line in meminfo.read_text().splitlines() if ':' in line)
        if 'MemAvailable' in lines:
            limits.append(int(lines['MemAvailable'].split()[0]) * 1024)
    group = Path('/sys/fs/cgroup')  # a container's
    try:
        limit, used = (
            (group / f'memory.{name}').read_text().strip() for name in ('max', 'current')
        )
    except OSError:
        pass
    else:
        if limit != 'max':
            limits.append(int(limit) - int(used))
    return min(limits, default=None)


def write(content: dict, path: Path) -> None:
    """Save a checkpoint into a file.

    Raises:
        OSError: It cannot be written. torch tells a full disk as a RuntimeError.
    """
    try:
        with open(path, 'wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else None
        raise cause or OSError(str(error).splitlines()[0]) from error
