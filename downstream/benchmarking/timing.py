"""Several things timed in turn, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tqdm import tqdm


class CoarseClockError(Exception):
    """A clock shows no time for a round."""


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(median, low, high)

    def __format__(self, spec: str) -> str:
        return f'{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})'


@dataclass(frozen=True)
class Timings:
    """Seconds of each case in each round."""

    seconds: Mapping[str, list[float]]

    def spread(self, case: str) -> Spread:
        """Seconds of ``case``."""
        return Spread.of(self.seconds[case])

    def speed(self, case: str, base: str) -> Spread:
        """How many times as fast as ``base`` a case is: ratios within each round."""
        pairs = zip(self.seconds[base], self.seconds[case])
        return Spread.of([former / own for former, own in pairs])


def interleave(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    title: str = '',
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Call every case once a round, each round starting with another one.

    Args:
        cases: What to time, by name.
        rounds: How often each is timed.
        warm_up: Rounds before, not timed.
        title: For the progress bar.
        clock: ``time.process_time`` for the seconds that this process computes, which are the same beside
            others that need the machine.

    Raises:
        CoarseClockError: The clock counts in steps that are longer than a round of a case.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in tqdm(range(-warm_up, rounds), desc=title, leave=False):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            begin = clock()
            cases[name]()
            took = clock() - begin
            if round_ < 0:
                continue
            if took <= 0:
                raise CoarseClockError(f'the clock shows no time for a round of {name}')
            seconds[name].append(took)
    return Timings(seconds)
