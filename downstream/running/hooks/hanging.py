"""A process of several that hangs ends the run, with its name, long before a collective gives up."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

# After the others, so that a launcher hears first from the process that says it.
_GRACE = 2
_LOADING, _STEP, _VALIDATION = 'between steps (hooks, loading data)', 'in its step', 'validating'
_WAITING_IN = ('torch/distributed/', 'torch/autograd/graph.py', 'torch/nn/parallel/distributed.py')


@dataclass
class _Seen:
    """What was last heard of a process, and when by this process's clock."""

    rank: int
    beat: str = ''
    at: float = 0.0
    progress: int = -1
    waiting: bool = False
    place: str = ''


@HOOKS.register_module()
class HangHook(Hook):
    """Ends a run of several processes in which nothing has moved for some minutes.

    A thread of each process tells the others, through the store in which they met, that it lives and
    how far its training is. So a process that is stopped, or whose machine is gone, is told from one
    that hangs while loading data, and from those that wait for it.

    Args:
        minutes: Without any progress. Longer than the evaluation of a validation takes, during which
            all wait for the first process.
    """

    priority = 'VERY_HIGH'

    def __init__(self, minutes: float = 10) -> None:
        self.limit = 60 * minutes
        self._done: threading.Event | None = None
        self._progress, self._phase, self._iteration = 0, _LOADING, 0

    def before_train(self, runner) -> None:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        # A connection of its own: the training's may be waiting for an answer.
        store = dist.distributed_c10d._get_default_store().clone()
        store.set_timeout(timedelta(seconds=self.limit))
        self._store = dist.PrefixStore('alive', store)
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._main = threading.main_thread().ident
        self._pause = min(self.limit / 10, 5)
        self._heard = time.monotonic()
        self._seen = {rank: _Seen(rank, at=self._heard) for rank in range(self._ranks)}
        self._done = threading.Event()
        for work in (self._talk, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def after_train(self, runner) -> None:
        if self._done is not None:
            self._done.set()

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        self._move(_STEP, runner.iter)

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self._move(_LOADING, runner.iter + 1)

    def after_val_iter(self, runner, *args, **kwargs) -> None:
        self._move(_VALIDATION, runner.iter)

    def _move(self, phase: str, iteration: int) -> None:
        self._phase, self._iteration = phase, iteration
        self._progress += 1

    def _talk(self) -> None:
        """Tell the others, and hear of them; a store whose process is stopped never answers."""
        beat = 0
        while not self._done.is_set():
            beat += 1
            try:
                self._exchange(beat)
            except (dist.DistError, RuntimeError):
                return  # the store is gone, and with it the first process
            self._done.wait(self._pause)

    def _exchange(self, beat: int) -> None:
        waiting, place = self._place()
        status = '\n'.join((str(beat), str(self._progress), str(int(waiting)), place))
        self._store.set(str(self._rank), status)
        for rank, last in self._seen.items():
            if not self._store.check([str(rank)]):
                continue
            number, progress, waits, where = (
                self._store.get(str(rank)).decode().split('\n', maxsplit=3)
            )
            if number != last.beat:
                last.beat, last.at = number, time.monotonic()
                last.progress, last.waiting, last.place = int(progress), waits == '1', where
        self._heard = time.monotonic()

    def _watch(self) -> None:
        moved, progress = time.monotonic(), -1
        while not self._done.wait(self._pause):
            now = time.monotonic()
            if progress != self._progress:
                moved, progress = now, self._progress
            if now - moved > self.limit:
                if now - self._heard > self.limit / 2:
                    silent = [0]  # who has the store
                else:
                    silent = [r for r, s in self._seen.items() if now - s.at > self.limit / 2]
                self._end(silent or self._behind(self._seen), bool(silent))

    def _place(self) -> tuple[bool, str]:
        """Whether the training waits for other processes, and where it is, in words."""
        frames = traceback.extract_stack(sys._current_frames().get(self._main))
        waiting = any(part in frame.filename for frame in frames for part in _WAITING_IN)
        last = frames[-1]
        file = '/'.join(last.filename.split(os.sep)[-2:])
        return waiting, (
            f'rank {self._rank} on {socket.gethostname()}, iteration {self._iteration}, '
            f'{self._phase} ({file}:{last.lineno} {last.name})'
        )

    @staticmethod
    def _behind(seen: dict[int, _Seen]) -> list[int]:
        """Those who do not wait for others, among those who are least far."""
        least = min(s.progress for s in seen.values())
        last = [rank for rank, s in seen.items() if s.progress == least]
        return [rank for rank in last if not seen[rank].waiting] or last

    def _end(self, ranks: list[int], silent: bool) -> None:
        speaker = min((rank for rank in self._seen if rank not in ranks), default=self._rank)
        if self._rank == speaker:
            what = 'do not answer' if silent else 'hang'
            places = '; '.join(self._seen[rank].place or f'rank {rank}' for rank in ranks)
            print_log(
                f'Nothing has moved for {self.limit / 60:g} minutes: these processes {what}: {places}. '
                'The run ends; --resume goes on from its last checkpoint.',
                'current',
                level=40,
            )
        else:
            time.sleep(_GRACE)
        if self._rank in ranks:
            faulthandler.dump_traceback(sys.__stderr__)
        sys.stdout.flush()
        os._exit(1)
