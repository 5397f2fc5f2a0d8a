"""All processes of a run start from the same checkpoint, with the same seed."""

from __future__ import annotations

import socket
from dataclasses import astuple, dataclass

from backbones.errors import ConfigError, WeightsError
from downstream.distributed.gather import broadcast, gather
from downstream.running.checkpoint.files import iteration_of, newest_whole, verified
from downstream.running.checkpoint.read import read


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        checkpoint: A file to load, or None.
        resume: Whether to go on from it, rather than to take its weights alone.
        seed: Of the run; None: any.
    """

    checkpoint: str | None
    resume: bool
    seed: int | None


def agree_on_start(
    work_dir: str, resume: bool | str, load_from: str | None, seed: int | None
) -> Start:
    """The same :class:`Start` on all processes; every process must call this.

    If one of them is to resume, all do: a machine that joins a run again does not see that the run
    was started again. The first process looks for the checkpoint and compares it with its digest; the
    others only make sure that they find the same one.

    Args:
        work_dir: Of the run.
        resume: ``'auto'`` for the newest intact checkpoint of ``work_dir`` if it has one, True for
            ``load_from``, or, without ``load_from``, as ``'auto'``.
        load_from: A checkpoint.
        seed: Of the config. That of a checkpoint replaces it.

    Raises:
        WeightsError: The checkpoint to resume from is missing or damaged.
        ConfigError: The processes find different files under its name.
    """
    requests = gather([resume, load_from, seed])
    problem: str | None = None
    first: tuple | None = None
    if requests is not None:
        request = next((r for r in requests if r[0]), requests[0])
        try:
            first = astuple(_first_process_start(work_dir, *request))
        except WeightsError as error:
            problem = str(error)
    problem, first = broadcast((problem, first))
    if first is None:
        raise WeightsError(problem)
    start = Start(*first)
    if start.resume and start.checkpoint is not None:
        _require_same(start.checkpoint)
    return start


def _first_process_start(
    work_dir: str, resume: bool | str, load_from: str | None, seed: int | None
) -> Start:
    if not resume:
        return Start(load_from, False, seed)
    if resume == 'auto' or load_from is None:
        found = newest_whole(work_dir, mmap=True)
        if found is None:
            return Start(load_from, False, seed)
        load_from, content = str(found[0]), found[1]
    else:
        content = verified(load_from, mmap=True)
    return Start(load_from, True, content.get('meta', {}).get('seed', seed))


def _require_same(checkpoint: str) -> None:
    """ConfigError unless all processes find a checkpoint of the same iteration under this name."""
    try:
        found = f'iteration {iteration_of(read(checkpoint, mmap=True))}'
    except WeightsError as error:
        found = str(error)
    parts = gather([found, socket.gethostname()])
    problem = None
    if parts is not None and len({part[0] for part in parts}) > 1:
        shown = '; '.join(
            f'rank {rank} on {host}: {checkpoint}, {found}'
            for rank, (found, host) in enumerate(parts)
        )
        problem = (
            f'the processes would go on from different checkpoints: {shown}. The work dir must be on '
            'a disk that all machines share.'
        )
    problem = broadcast(problem)
    if problem is not None:
        raise ConfigError(problem)
