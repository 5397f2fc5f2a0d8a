"""The licence of trained weights: that of what their training started from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backbones.errors import ConfigError, WeightsError
from backbones.weights.sources import SUPPOSED, UNKNOWN_LICENCE, Source, find

# How files say that they inherit nothing: those of this package, and encoders of tools/pretrain.py.
_OWN = ('none inherited', 'your own')
# Identifiers of licences on the Hugging Face Hub; others are `other` there, with a name.
_OF_HUB = {
    'agpl-3.0',
    'apache-2.0',
    'bsd-2-clause',
    'bsd-3-clause',
    'cc-by-4.0',
    'cc-by-nc-4.0',
    'cc-by-nc-nd-4.0',
    'cc-by-nc-sa-4.0',
    'cc-by-nd-4.0',
    'cc-by-sa-4.0',
    'cc0-1.0',
    'gpl-2.0',
    'gpl-3.0',
    'lgpl-3.0',
    'mit',
    'mpl-2.0',
    'openrail',
    'unlicense',
}
_LINKS = {
    'dinov3-license': 'https://ai.meta.com/resources/models-and-libraries/dinov3-license',
}


@dataclass(frozen=True)
class Licence:
    """The licence of trained weights.

    Attributes:
        name: E.g. ``'MIT'``; None: none is inherited and none was given, or it is not known.
        text: The same as a sentence for a reader, with its origin.
        known: Whether ``name`` may be relied on.
        base: Repository on the Hub of the weights that training started from.
    """

    name: str | None
    text: str
    known: bool = True
    base: str | None = None

    @property
    def of_hub(self) -> dict[str, str]:
        """``license``, and for one that the Hub has no identifier for ``license_name`` and its link."""
        if self.name is None:
            return {}
        slug = re.sub(r'[^a-z0-9.+]+', '-', self.name.lower()).strip('-')
        if slug in _OF_HUB:
            return {'license': slug}
        link = {'license_link': _LINKS[slug]} if slug in _LINKS else {}
        return {'license': 'other', 'license_name': slug, **link}


def inherited_licence(cfg: Mapping, earlier: Sequence[Mapping] = ()) -> Licence:
    """The licence that trained weights inherit from those that they started from.

    Args:
        cfg: The config of the training.
        earlier: Those of earlier runs, the first one first, which it may have continued.
    """
    origin = next(filter(None, (_checkpoint_of(run) for run in (*earlier, cfg))), None)
    origin = origin or _pretrained_of(cfg)
    if origin is None:
        return Licence(None, 'none inherited: trained from random weights')
    try:
        source = find(origin)
    except WeightsError:
        source = Source(origin)
    return _of_source(source)


def _checkpoint_of(cfg: Mapping) -> str | None:
    """The trained model that a run started from; None: its backbone's own weights."""
    # What a run that was resumed by name has in load_from is its own earlier checkpoint.
    return None if cfg.get('resume') is True else cfg.get('load_from')


def _pretrained_of(cfg: Mapping) -> str | None:
    """The weights that the backbone of a run started from; None: random ones."""
    model = cfg['model']
    init = (model.get('backbone') or {}).get('init_cfg') or {}
    parts = init if isinstance(init, (list, tuple)) else [init]
    named = [part['checkpoint'] for part in parts if part and part.get('checkpoint')]
    return next(iter(named), None) or model.get('pretrained')


def _of_source(source: Source) -> Licence:
    stated = source.licence.strip()
    if stated.startswith(_OWN):
        return Licence(None, f'none inherited: {source.name} was trained from random weights')
    # Behind a bracket or comma is where the publisher of `source` has the licence from.
    name = re.split(r' \(|, ', stated)[0]
    if stated == UNKNOWN_LICENCE or stated.startswith(('that of ', 'not ')):
        return Licence(
            None, f'that of {source.name}, from which training started', False, source.repo
        )
    if SUPPOSED in stated:
        text = f'that of {source.name}, whose name is one of {name} weights'
        return Licence(None, text, False, source.repo)
    return Licence(name, f'{name} (inherited from {source.name})', True, source.repo)


def published_licence(inherited: Licence, given: str | None) -> Licence:
    """The licence to publish weights under.

    Args:
        inherited: That of :func:`inherited_licence`.
        given: What the publisher says; None: nothing.

    Raises:
        ConfigError: It is not known and not given, or the two differ.
    """
    if given is None:
        if not inherited.known:
            raise ConfigError(
                f'the licence of the weights is not known: {inherited.text}. Look it up and give it, '
                'e.g. --licence MIT.'
            )
        return inherited
    given = given.strip()
    if not given:
        raise ConfigError('--licence is empty; give a name, e.g. --licence Apache-2.0.')
    if inherited.name is not None:
        if given.lower() != inherited.name.lower():
            raise ConfigError(
                f'--licence {given}: the weights are {inherited.text}, which their training does not '
                'change; leave --licence out.'
            )
        return inherited
    return Licence(
        given, f'{given} (given by the publisher; {inherited.text})', base=inherited.base
    )
