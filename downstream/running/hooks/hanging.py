"""Ends a run of several processes in which one hangs, and names that process, before NCCL gives up."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed.constants import default_pg_nccl_timeout, default_pg_timeout

from backbones.upstream import optional
from downstream.distributed.wrapping import unwrapped

# The other processes leave later, so that a launcher first sees the exit of the one with the message.
_GRACE = 2
_LOADING, _FORWARD, _BACKWARD = 'loading data or in hooks', 'forward pass', 'backward pass'
_OPTIMIZER, _VALIDATION = 'optimizer step', 'validation'
# A main thread in these files waits for other processes; in the last one for its GPU, which executes
# the collectives of NCCL.
_WAITING_IN = (
    'torch/distributed/',
    'torch/autograd/graph.py',
    'torch/nn/parallel/distributed.py',
    'downstream/running/hooks/finite.py',
)
_default_store = optional('torch.distributed.distributed_c10d._get_default_store')


@dataclass
class Report:
    """What a process last reported, and when it arrived by the clock of the process that reads it."""

    rank: int
    number: str = ''
    arrived: float = 0.0
    progress: int = -1
    waiting: bool = False
    place: str = ''


def hanging_processes(reports: Iterable[Report]) -> list[int]:
    """Ranks that do not wait for others among those with the least progress.

    All of those with the least progress where every one of them waits.
    """
    reports = list(reports)
    least = min(report.progress for report in reports)
    last = [report for report in reports if report.progress == least]
    return [r.rank for r in last if not r.waiting] or [r.rank for r in last]


def waits_for_others(files: Iterable[str]) -> bool:
    """Whether a thread waits for other processes whose stack has frames in ``files``."""
    return any(part in file for file in files for part in _WAITING_IN)


def collective_timeout(dist_cfg: dict, backend: str) -> float:
    """Seconds after which a collective gives up: of ``env_cfg.dist_cfg``, or PyTorch's default.

    Args:
        dist_cfg: Its ``timeout`` is in seconds.
        backend: Of the default process group, such as ``'nccl'`` or ``'cpu:gloo,cuda:nccl'``.
    """
    if dist_cfg.get('timeout') is not None:
        return float(dist_cfg['timeout'])
    default = default_pg_nccl_timeout if backend == 'nccl' else default_pg_timeout
    return (default or default_pg_timeout).total_seconds()


@HOOKS.register_module()
class HangHook(Hook):
    """Ends a run of several processes in which nothing has moved for some minutes.

    A thread of each process reports to the others, through the store of the rendezvous, that it is
    alive and how far its training is. So the message can distinguish a process that is stopped, or
    whose machine is lost, from one that hangs, and from those that wait for it.

    Progress is counted at each begin of a forward, a backward pass and an optimizer step, by hooks of
    model and optimizer that are removed after the training. Calls of NCCL return at once, so that a
    waiting process is one whose GPU has unfinished work.

    Args:
        minutes: Without any progress. Longer than the evaluation of a validation, during which all
            wait for the first process, and shorter than the time-out of collectives.
    """

    priority = 'VERY_HIGH'

    def __init__(self, minutes: float = 10) -> None:
        self.limit = 60 * minutes
        self._done = threading.Event()
        self._done.set()
        self._handles: list = []
        self._stream: torch.cuda.Stream | None = None
        self._progress, self._phase, self._iteration = 0, _LOADING, 0

    def before_train(self, runner: Runner) -> None:
        self.close()
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        if _default_store is None:
            runner.logger.warning('HangHook is off: this torch does not give access to its store.')
            return
        self._warn_of_short_timeout(runner)
        # A connection of its own: that of the training may be waiting for an answer.
        store = _default_store().clone()
        store.set_timeout(timedelta(seconds=self.limit))
        self._store = dist.PrefixStore('alive', store)
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._main = threading.main_thread()
        self._pause = min(self.limit / 10, 5)
        self._moved = self._heard = time.monotonic()
        self._reports = {rank: Report(rank, arrived=self._heard) for rank in range(self._ranks)}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._stream = torch.cuda.current_stream()
        self._count_passes(runner)
        self._done = threading.Event()
        for work in (self._talk, self._watch):
            threading.Thread(target=work, args=(self._done,), name='hanging', daemon=True).start()

    def _warn_of_short_timeout(self, runner: Runner) -> None:
        dist_cfg = (runner.cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        timeout = collective_timeout(dist_cfg, dist.get_backend())
        if timeout <= self.limit:
            runner.logger.warning(
                f'Collectives give up after {timeout / 60:g} minutes, before HangHook, which is set to '
                f'{self.limit / 60:g}: a hang would end the run without the name of its process. Lower '
                "default_hooks.hanging.minutes, or take env_cfg.dist_cfg.backend='cpu:gloo,cuda:nccl'."
            )

    def _count_passes(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        self._handles = [model.register_forward_hook(lambda *_: self._move(_BACKWARD))]
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if optimizer is not None:
            self._handles.append(
                optimizer.register_step_pre_hook(lambda *_: self._move(_OPTIMIZER))
            )

    def after_train(self, runner: Runner) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and remove the hooks from model and optimizer."""
        self._done.set()
        for handle in self._handles:
            handle.remove()
        self._handles, self._stream = [], None

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self._move(_FORWARD, runner.iter)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self._move(_LOADING, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args, **kwargs) -> None:
        self._move(_VALIDATION, runner.iter)

    def _move(self, phase: str, iteration: int | None = None) -> None:
        if iteration is None and self._phase == _VALIDATION:
            return  # a forward pass of the validation
        self._phase = phase
        self._iteration = self._iteration if iteration is None else iteration
        self._progress += 1

    def _talk(self, done: threading.Event) -> None:
        """Exchange reports; a store whose process is stopped never answers."""
        number = 0
        while not done.is_set():
            number += 1
            try:
                self._exchange(number)
            except (dist.DistError, RuntimeError):
                return  # the store is gone, and with it the first process
            done.wait(self._pause)

    def _exchange(self, number: int) -> None:
        waiting, place = self._place()
        text = '\n'.join((str(number), str(self._progress), str(int(waiting)), place))
        self._store.set(str(self._rank), text)
        for rank, last in self._reports.items():
            if not self._store.check([str(rank)]):
                continue
            number_read, progress, waits, where = (
                self._store.get(str(rank)).decode().split('\n', maxsplit=3)
            )
            if number_read != last.number:
                last.number, last.arrived = number_read, time.monotonic()
                last.progress, last.waiting, last.place = int(progress), waits == '1', where
        self._heard = time.monotonic()

    def _watch(self, done: threading.Event) -> None:
        progress = -1
        while not done.wait(self._pause):
            now = time.monotonic()
            if progress != self._progress:
                self._moved, progress = now, self._progress
            if now - self._moved > self.limit:
                if now - self._heard > self.limit / 2:
                    silent = [0]  # its process holds the store
                else:
                    silent = [
                        rank
                        for rank, report in self._reports.items()
                        if now - report.arrived > self.limit / 2
                    ]
                self._end(silent or hanging_processes(self._reports.values()), bool(silent))

    def _place(self) -> tuple[bool, str]:
        """Whether the training waits for other processes, and where it is, in words."""
        frames = traceback.extract_stack(sys._current_frames().get(self._main.ident or 0))
        waiting = waits_for_others(frame.filename for frame in frames) or self._gpu_is_busy()
        last = frames[-1]
        file = '/'.join(last.filename.split(os.sep)[-2:])
        return waiting, (
            f'rank {self._rank} on {socket.gethostname()}, iteration {self._iteration}, '
            f'{self._phase} ({file}:{last.lineno} {last.name})'
        )

    def _gpu_is_busy(self) -> bool:
        # Asked late only: a query from another thread would break the capture of a CUDA graph.
        stalled = time.monotonic() - self._moved > self.limit / 2
        return stalled and self._stream is not None and not self._stream.query()

    def _end(self, ranks: list[int], silent: bool) -> None:
        speaker = min((rank for rank in self._reports if rank not in ranks), default=self._rank)
        if self._rank == speaker:
            what = 'do not answer' if silent else 'hang'
            places = '; '.join(self._reports[rank].place or f'rank {rank}' for rank in ranks)
            print_log(
                f'Nothing has moved for {self.limit / 60:g} minutes: these processes {what}: {places}. '
                'The run ends; --resume continues from its last checkpoint.',
                'current',
                level=40,
            )
        else:
            time.sleep(_GRACE)
        if self._rank in ranks and sys.__stderr__ is not None:
            faulthandler.dump_traceback(sys.__stderr__)
        sys.stdout.flush()
        os._exit(1)
