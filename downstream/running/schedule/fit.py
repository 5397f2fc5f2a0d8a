"""Whether a schedule fits the length of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A longer warm-up is said; one as long as the run never reaches the learning rate.
_LONG_WARM_UP = 0.5


def misfits(schedulers: Sequence[Mapping], epochs: int | None, steps: int) -> list[str]:
    """What of a schedule the run is too short for, a sentence each.

    Args:
        schedulers: ``param_scheduler`` of a config.
        epochs: Of the run; None if it counts iterations.
        steps: Of the run.
    """
    found = []
    for scheduler in schedulers:
        by_epoch = scheduler.get('by_epoch', True)
        length = epochs if by_epoch else steps
        if length is None:
            continue
        unit = 'epochs' if by_epoch else 'steps'
        if 'start_factor' in scheduler and 'end' in scheduler:
            warm_up = scheduler['end'] - scheduler.get('begin', 0) - 1
            if warm_up > length * _LONG_WARM_UP:
                never = ', and never reaches its learning rate' if warm_up >= length else ''
                found.append(
                    f'The warm-up takes {warm_up} {unit}; the run has {length}{never}. --epochs N adapts '
                    'the schedule, or change param_scheduler.'
                )
        begin = scheduler.get('begin', 0)
        late = [m for m in scheduler.get('milestones', ()) if begin + m >= length]
        if late:
            found.append(
                f'The learning rate never falls at {", ".join(map(str, late))} {unit}: the run has '
                f'{length}. --epochs N adapts the schedule, or change param_scheduler.'
            )
    return found
