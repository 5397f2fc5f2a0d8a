"""The steps of the roadmap by name: ``roadmap-<step>`` and ``roadmap-<step>-<regime>``."""

from __future__ import annotations

from backbones.errors import ConfigError

from .steps import REGIMES, STEPS

PREFIX = 'roadmap-'
# The regime of a name that names none.
_DEFAULT = 'tiny'


def name_of(step: str, regime: str = _DEFAULT) -> str:
    """The name of a step."""
    return f'{PREFIX}{step}' + ('' if regime == _DEFAULT else f'-{regime}')


def built_in_names() -> list[str]:
    """Every name: each regime's steps in the paper's order."""
    return [name_of(step, regime) for regime in REGIMES for step in STEPS]


def config_of_name(name: str) -> dict:
    """The config of the backbone ``name``.

    Raises:
        ConfigError: There is no such step; the message lists the steps.
    """
    for regime in REGIMES:
        for step in STEPS:
            if name == name_of(step, regime):
                return {'type': 'Roadmap', 'step': step, 'regime': regime}
    others = ' or '.join(f'-{regime}' for regime in REGIMES if regime != _DEFAULT)
    raise ConfigError(
        f'backbone {name!r}: there is no such step; known: {", ".join(STEPS)}, each also with {others} '
        'behind it.'
    )
