"""The switch that says on which devices ConvNeXt's blocks run fused."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from backbones.errors import ConfigError

ENVIRONMENT_VARIABLE = 'CONVNEXT_FUSED'
_ENVIRONMENT_VALUES: dict[str, bool | str] = {'1': True, '0': False, 'cpu': 'cpu', 'gpu': 'gpu'}
_DEVICES: dict[bool | str, frozenset[str]] = {
    True: frozenset({'cpu', 'gpu'}),
    False: frozenset(),
    'cpu': frozenset({'cpu'}),
    'gpu': frozenset({'gpu'}),
}


@dataclass(frozen=True)
class FusedSwitch:
    """On which devices blocks may run fused, and what decided it."""

    devices: frozenset[str]
    source: str


# The Triton kernels are right, but nobody has measured them on a GPU yet.
_DEFAULT = FusedSwitch(_DEVICES['cpu'], 'the default')
_current: FusedSwitch | None = None


def set_fused(mode: bool | str) -> contextlib.ExitStack:
    """Choose where ConvNeXt's blocks run fused instead of module by module, for the whole process.

    Takes effect at once; used in a ``with`` statement, the former choice returns at its end. Without a
    call, the environment variable ``CONVNEXT_FUSED`` decides (``1``, ``0``, ``cpu`` or ``gpu``); without
    that, blocks run fused on CPUs alone.

    Args:
        mode: True (CPU and CUDA), False (nowhere), ``'cpu'`` or ``'gpu'`` (only there).

    Raises:
        ConfigError: ``mode`` is none of these.
    """
    global _current
    if not isinstance(mode, (bool, str)) or mode not in _DEVICES:
        raise ConfigError(f"set_fused({mode!r}): give True, False, 'cpu' or 'gpu'.")
    former, _current = _current, FusedSwitch(_DEVICES[mode], f'set_fused({mode!r})')
    restore = contextlib.ExitStack()
    restore.callback(_restore, former)
    return restore


def fused_switch() -> FusedSwitch:
    """The choice in force.

    Raises:
        ConfigError: The environment variable has an impossible value.
    """
    global _current
    if _current is None:
        _current = _from_environment()
    return _current


def _from_environment() -> FusedSwitch:
    value = os.environ.get(ENVIRONMENT_VARIABLE)
    if value is None:
        return _DEFAULT
    if value not in _ENVIRONMENT_VALUES:
        raise ConfigError(
            f'{ENVIRONMENT_VARIABLE}={value!r} in the environment: give '
            f'{", ".join(_ENVIRONMENT_VALUES)}, or leave it unset.'
        )
    mode = _ENVIRONMENT_VALUES[value]
    return FusedSwitch(_DEVICES[mode], f'{ENVIRONMENT_VARIABLE}={value}')


def _restore(former: FusedSwitch | None) -> None:
    global _current
    _current = former
