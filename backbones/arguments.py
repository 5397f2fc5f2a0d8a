"""Arguments of backbones, checked: an impossible value is a ConfigError that lists the possible ones."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ConfigError


def checked_channels(in_channels: int) -> int:
    """``in_channels``, a positive integer."""
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ConfigError(
            f'in_channels={in_channels!r}: give the number of channels of the images.'
        )
    return in_channels


def checked_out_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    """``out_indices`` as a tuple: different ones of four maps."""
    indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or len(set(indices)) != len(indices) or not set(indices) <= {0, 1, 2, 3}:
        raise ConfigError(
            f'out_indices={out_indices!r}: give stages out of 0, 1, 2, 3, each at most once.'
        )
    return indices


def checked_frozen_stages(frozen_stages: int, num_stages: int) -> int:
    """``frozen_stages``, from -1 to ``num_stages``."""
    if not (isinstance(frozen_stages, int) and -1 <= frozen_stages <= num_stages):
        raise ConfigError(
            f'frozen_stages={frozen_stages!r}: give -1 (none) to {num_stages} (all stages).'
        )
    return frozen_stages


def check_range(name: str, value: float, low: float, high: float) -> None:
    """ConfigError unless the argument ``name`` is a number from ``low`` to ``high``."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        bound = f'from {low} to {high}' if high != float('inf') else f'of at least {low}'
        raise ConfigError(f'{name}={value!r}: give a number {bound}.')
