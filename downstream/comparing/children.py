"""The processes of a comparison: started, watched, stopped with it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import ConfigError
from downstream.running.hooks.preemption import EXIT_CODE, SIGNALS

from .progress import Progress, tail
from .state import Run
from .words import Command, Commands

_POLL = 0.2
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's sys/prctl.h


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a comparison's folder; processes that inherit the descriptor hold it as well.

    Raises:
        ConfigError: Another comparison is at work there, or a run that one left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f'another comparison is at work in {folder}, or a run that one left behind; wait for '
                'it, or end it.'
            ) from error
        yield file.fileno()


class Child:
    """A process of a run.

    Args:
        run: The run.
        stage: ``'train'`` or ``'test'``.
        command: Its command line.
        slot: Which of the runs that go on at the same time it is.
        lock: A descriptor to inherit.
    """

    def __init__(self, run: Run, stage: str, command: Command, slot: int, lock: int) -> None:
        self.run, self.stage, self.slot = run, stage, slot
        self.begun = time.monotonic()
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.log, 'a') as log:
            print(f'$ {command}', file=log, flush=True)
            self.offset = log.tell()
            self.process = start(command, log, lock)
        self._words = command.words

    def stop(self) -> None:
        """Ask it to save and leave."""
        if Path(self._words[1]).name.startswith('slurm_'):
            os.killpg(self.process.pid, signal.SIGTERM)  # bash would leave srun behind
        else:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it with all of its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def complaint(self, code: int) -> str:
        """Why it failed, in one line: its own error, or the last line that it wrote."""
        lines = [line.strip() for line in tail(self.run.log, self.offset).splitlines()]
        lines = [line for line in lines if line]
        own = [line for line in lines if line.startswith('error: ')]
        last = (own or lines or ['it wrote nothing'])[-1]
        ended = f'signal {-code}' if code < 0 else f'exit code {code}'
        return f'{self.stage}ing ended with {ended}: {last.removeprefix("error: "):.300}'


def start(command: Command, log: IO, lock: int) -> subprocess.Popen:
    """Start a command in a session of its own, with its output in ``log``."""
    return subprocess.Popen(
        command.words,
        env={**os.environ, 'PYTHONUNBUFFERED': '1', **command.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock,),
        preexec_fn=_end_with_parent if _LIBC else None,
    )


_LIBC = ctypes.CDLL(None) if sys.platform.startswith('linux') else None


def _end_with_parent() -> None:
    """Ask Linux to stop this process, as a signal would, when the comparison is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


class Children:
    """Takes runs to their end, so many at a time.

    A run that fails does not end the others. On a signal all that are going on are asked to save and
    leave, and no other begins; on a second one they are killed.

    Args:
        commands: Makes the commands.
        jobs: Runs at a time.
        lock: See :func:`locked`.
        progress: Says how far they are.
    """

    def __init__(self, commands: Commands, jobs: int, lock: int, progress: Progress) -> None:
        self.commands, self.jobs, self.lock, self.progress = commands, jobs, lock, progress
        self.stopped_by = 0
        self._going: list[Child] = []

    def finish(self, runs: list[Run]) -> None:
        """Train and test all ``runs``; their failures are recorded in them."""
        waiting = deque(runs)
        free = list(range(self.jobs))
        with self._signals():
            while self._going or (waiting and not self.stopped_by):
                while free and waiting and not self.stopped_by:
                    self._begin(waiting.popleft(), free.pop(0))
                time.sleep(_POLL)
                for child in [c for c in self._going if c.process.poll() is not None]:
                    self._going.remove(child)
                    if not self._follow_up(child):
                        free.append(child.slot)
                self.progress.show_running(
                    [(c.run, c.stage, c.offset, c.begun) for c in self._going], waiting
                )

    def _begin(self, run: Run, slot: int) -> None:
        run.failure = None
        run.jobs = max(run.jobs, self.jobs)
        run.write()
        stage = 'test' if run.checkpoint else 'train'
        self.progress.begin(run, stage)
        self._start(run, stage, slot)

    def _start(self, run: Run, stage: str, slot: int) -> None:
        command = getattr(self.commands, stage)(run, slot)
        self._going.append(Child(run, stage, command, slot, self.lock))

    def _follow_up(self, child: Child) -> bool:
        """Record what a child has done; whether its run goes on."""
        run, code = child.run, child.process.returncode
        run.seconds += time.monotonic() - child.begun
        if code == 0:
            if child.stage == 'train':
                run.checkpoint = run.last_checkpoint()
                if run.checkpoint is None:
                    run.failure = f'training has left no checkpoint in {run.folder}'
            else:
                run.metrics = run.newest_metrics()
                if run.metrics is None:
                    run.failure = f'the test has left no metrics.json in {run.folder}'
        elif code == EXIT_CODE or self.stopped_by:
            run.failure = f'stopped while {child.stage}ing; the same command continues it'
        else:
            run.failure = child.complaint(code)
        run.write()
        if run.failure or run.done:
            self.progress.end(run)
            return False
        if self.stopped_by:
            run.failure = 'stopped before its test; the same command continues it'
            self.progress.end(run)
            return False
        self._start(run, 'test', child.slot)
        return True

    @contextmanager
    def _signals(self) -> Iterator[None]:
        former = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            for child in self._going:
                child.kill()

    def _note(self, number: int, frame: object) -> None:
        again, self.stopped_by = bool(self.stopped_by), number
        for child in self._going:
            if child.process.poll() is None:
                child.kill() if again else child.stop()
