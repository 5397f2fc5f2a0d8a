"""Peak memory of a step, each implementation in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.process import alone
from downstream.benchmarking.memory import peak_of_step

Step = tuple[Callable[[], object], Callable[[], object]]


def peak(make: Callable[..., Step], *arguments: object) -> int:
    """Bytes that a step takes at its peak on top of what was there before it.

    What the process has freed and kept makes them vary: the median of three processes.

    Args:
        make: A function of a module, called in the new process; returns the step, and a smaller one that
            sets up what libraries make at first.
        arguments: Its own.

    Raises:
        RuntimeError: The system does not report the memory of a process
            (:func:`downstream.benchmarking.memory.reports_peaks`).
    """
    return statistics.median_low(alone(_peak, make, *arguments) for _ in range(3))


def _peak(make: Callable[..., Step], *arguments: object) -> int:
    run, first = make(*arguments)
    first()
    taken = peak_of_step(run)
    if taken is None:
        raise RuntimeError('this system does not report the memory of a process')
    return taken
