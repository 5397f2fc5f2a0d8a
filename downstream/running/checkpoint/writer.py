"""Checkpoints are written in a thread while training goes on, from a copy in host memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

# A checkpoint is copied only if this many times its size is free: the copy itself and a reserve.
_HEADROOM = 2


class Writer:
    """Runs one job at a time in a thread; an error in it is raised by the next call of a method."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start ``job`` when the one before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name='checkpoint')
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait until nothing is being written; raise the error of the last job, if it had one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the error of the last job, if it had one, without waiting."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def snapshot(content: dict, copied: Collection[str] = ()) -> dict | None:
    """A copy in host memory that training does not change; None where memory is too short for one.

    Args:
        content: Of a checkpoint.
        copied: Keys whose values share no memory with the training.
    """
    free = free_memory()
    shared = {key: value for key, value in content.items() if key not in copied}
    if free is not None and free < _HEADROOM * size_of(shared):
        return None
    return {**content, **on_host(shared, copy_host_tensors=True)}


@overload
def on_host(content: dict, copy_host_tensors: bool = False) -> dict: ...


@overload
def on_host(content: object, copy_host_tensors: bool = False) -> object: ...


def on_host(content: object, copy_host_tensors: bool = False) -> object:
    """``content`` with every tensor in host memory.

    A tensor of a device is copied once. A checkpoint with tensors of ``cuda:0`` could not be read where
    there is no such device.

    Args:
        content: Nested dicts, lists and tuples.
        copy_host_tensors: Copy what is in host memory already, too.
    """
    if isinstance(content, Tensor):
        on_device = content.device.type != 'cpu'
        content = content.detach()
        return content.cpu() if on_device or not copy_host_tensors else content.clone()
    if isinstance(content, dict):
        parts = copy.copy(content)  # of the same class, with the metadata of a state dict
        for key, value in content.items():
            parts[key] = on_host(value, copy_host_tensors)
        return parts
    if type(content) is list or type(content) is tuple:
        return type(content)(on_host(value, copy_host_tensors) for value in content)
    return copy.deepcopy(content) if copy_host_tensors else content


def size_of(content: object) -> int:
    """Bytes of the tensors in nested dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(size_of, content.values()))
    return sum(map(size_of, content)) if isinstance(content, (list, tuple)) else 0


def free_memory() -> int | None:
    """Bytes of host memory that this process may still take; None where the system has no figure."""
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
        OSError: It cannot be written. torch raises a RuntimeError where the disk is full.
    """
    try:
        with open(path, 'wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else None
        raise cause or OSError(str(error).splitlines()[0]) from error
