"""What a run is made of, so that a run of another recipe is not taken for one that is done."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError

# Where a run writes, and how it is started, changes nothing of what it computes.
_PLACES = ('work_dir', 'launcher', 'resume')
_SHOWN = 3


def flat(cfg: Config) -> dict[str, object]:
    """A config as dotted keys and JSON values, without what changes nothing of the result."""
    content = {key: value for key, value in cfg.to_dict().items() if key not in _PLACES}
    return dict(_leaves(content, ''))


def _leaves(node: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)) and node:
        for index, value in enumerate(node):
            yield from _leaves(value, f'{path}.{index}')
    elif isinstance(node, type):
        yield path, f'{node.__module__}.{node.__qualname__}'
    elif node is None or isinstance(node, (bool, int, float, str)):
        yield path, node
    else:
        yield path, repr(node)


def digest(identity: Mapping) -> str:
    """SHA-256 of an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def split(candidate: str) -> tuple[str, str | None]:
    """The backbone and the weights of a candidate ``NAME=WEIGHTS``; ``None`` without weights.

    Raises:
        ConfigError: One of them is empty.
    """
    backbone, sign, weights = candidate.partition('=')
    if not backbone or (sign and not weights):
        raise ConfigError(
            f'--backbones {candidate!r}: give NAME, or NAME=WEIGHTS with a file or a name of the table.'
        )
    return backbone, weights or None


def code_of(backbone: str) -> str | None:
    """SHA-256 of the file that defines the class of a backbone ``module:Class``; None for other names."""
    module_name, _, class_name = backbone.partition(':')
    if not class_name or module_name == 'timm':
        return None
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
        source = inspect.getsourcefile(cls)
        content = Path(source).read_bytes() if source else b''
    except (ImportError, AttributeError, TypeError, OSError):  # built without a file of its own
        return None
    return hashlib.sha256(content).hexdigest()


def differences(former: Mapping, new: Mapping) -> str:
    """In what two identities differ, for a message: the first keys, with both values."""
    old, now = _one_level(former), _one_level(new)
    keys = [key for key in {**now, **old} if old.get(key) != now.get(key)]
    shown = [f'{key} was {_word(old, key)}, is {_word(now, key)}' for key in keys[:_SHOWN]]
    more = f', and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''
    return '; '.join(shown) + more


def _one_level(identity: Mapping) -> dict[str, object]:
    own = {key: value for key, value in identity.items() if key != 'config'}
    return {**own, **(identity.get('config') or {})}


def _word(values: Mapping, key: str) -> str:
    return f'{values[key]!r:.60}' if key in values else 'absent'
