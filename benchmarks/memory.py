"""Peak memory of a step, each implementation in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import alone
from downstream.running.batch_probe import release_free_memory

Step = tuple[Callable[[], object], Callable[[], object]]

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def is_possible() -> bool:
    """Whether the system reports the peak memory of a process and can reset it."""
    return _STATUS.is_file() and _CLEAR.exists()


def peak(make: Callable[..., Step], *arguments: object) -> int:
    """Bytes that a step takes at its peak on top of what was there before it.

    What the process has freed and kept makes them vary: the median of three processes.

    Args:
        make: A function of a module, called in the new process; returns the step, and a smaller one that
            sets up what libraries make at first.
        arguments: Its own.
    """
    return statistics.median(alone(_peak, make, *arguments) for _ in range(3))


def _peak(make: Callable[..., Step], *arguments: object) -> int:
    run, first = make(*arguments)
    first()
    release_free_memory()
    before = _field('VmRSS')
    _CLEAR.write_text('5')  # forget the peak so far
    run()
    return _field('VmHWM') - before


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
