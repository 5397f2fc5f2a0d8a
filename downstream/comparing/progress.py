"""How far a comparison is: a line when a run begins, when it ends, and while it takes long."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from .figures import short_figures
from .state import Run

# Seconds between lines while no run ends.
_INTERVAL = 300.0
# Bytes at the end of an output that are read.
_TAIL = 20_000
_ITERATION = re.compile(r'((?:Epoch|Iter)\(\w+\) *(?:\[[^\]]*\])+).*?eta: ((?:\d+ days?, )?[\d:]+)')


class Progress:
    """Prints how far a comparison is.

    Args:
        runs: All of it.
        jobs: How many go on at a time.
    """

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.runs, self.jobs = runs, jobs
        self._shown = time.monotonic()
        self._begun: dict[str, float] = {}

    def begin(self, run: Run, stage: str) -> None:
        """A run begins or goes on."""
        self._begun[run.name] = time.monotonic()
        how = f'{stage}s'
        if stage == 'train' and run.started:
            how = 'goes on training'
        self._print(f'{self._place(run)}: {how}, output in {run.log}')

    def end(self, run: Run) -> None:
        """A run is done, or has failed."""
        self._begun.pop(run.name, None)
        left = self._left()
        after = f'; {duration(left)} left' if left else ''
        if run.failure:
            self._print(f'{self._place(run)}: {run.failure}{after}')
        else:
            figures = short_figures(run)
            self._print(f'{self._place(run)}: {figures}, {duration(run.seconds)}{after}')

    def show_running(
        self, going: Sequence[tuple[Run, str, int, float]], waiting: Collection[Run]
    ) -> None:
        """Say what the runs are doing, if nothing has been said for a while."""
        if time.monotonic() - self._shown < _INTERVAL:
            return
        for run, stage, offset, _ in going:
            steps = _ITERATION.findall(tail(run.log, offset))
            where = f'{steps[-1][0]}, {steps[-1][1]} left of it' if steps else f'{stage}s'
            self._print(f'{self._place(run)}: {where}')
        left = self._left()
        if left:
            self._print(f'about {duration(left)} left')

    def _place(self, run: Run) -> str:
        count = len(self.runs)
        return f'[{self.runs.index(run) + 1:>{len(str(count))}}/{count}] {run.name}'

    def _left(self) -> float | None:
        """Seconds until all is done, by the time of the runs that are; None where there are none."""
        times = [run.seconds for run in self.runs if run.done]
        if not times:
            return None
        mean, now = sum(times) / len(times), time.monotonic()
        rest = [run for run in self.runs if not run.done and not run.failure]
        work = sum(
            max(0.0, mean - (now - self._begun[run.name])) if run.name in self._begun else mean
            for run in rest
        )
        return work / min(self.jobs, max(1, len(rest)))

    def _print(self, line: str) -> None:
        self._shown = time.monotonic()
        print(line, flush=True)


def duration(seconds: float) -> str:
    """Time as a person says it: ``52 s``, ``18 min``, ``3 h 5 min``."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60} min'


def tail(path: Path, offset: int = 0) -> str:
    """The last part of a text file that begins after ``offset``."""
    try:
        with open(path, 'rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _TAIL))
            return re.sub(r'\x1b\[[\d;]*m', '', file.read().decode(errors='replace'))
    except OSError:
        return ''
