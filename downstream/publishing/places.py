"""Folders of the machine that trained, which a config that everybody may read does not name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

_DATA = 'data'


def use_relative_places(cfg: Config) -> dict[str, str]:
    """Let ``cfg`` name no absolute path: data are in ``data/<folder>/``, other files have their name.

    Args:
        cfg: Changed in place.

    Returns:
        The new names of folders of data, by the former.
    """
    roots = {
        value
        for node in _nodes(cfg)
        for key, value in node.items()
        if key == 'data_root' and _is_absolute(value)
    }
    names: dict[str, str] = {}
    for root in sorted(roots):
        name = f'{_DATA}/{Path(root).name}/'
        # Two data sets of one name are told apart.
        count = 1 + sum(Path(other).name == Path(root).name for other in names)
        names[root] = name if count == 1 else f'{name[:-1]}-{count}/'
    for node in _nodes(cfg):
        for key, value in list(node.items()):
            node[key] = _moved(value, names)
    return names


def _nodes(value: object) -> Iterator[Any]:
    """All dicts in a config."""
    if isinstance(value, (Mapping, Config)):
        yield value
        for child in list(value.values()):
            yield from _nodes(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _nodes(child)


def _moved(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(one, names) for one in value)
    if not _is_absolute(value):
        return value
    path = str(value)
    for root in sorted(names, key=len, reverse=True):
        if f'{path}/'.startswith(f'{root.rstrip("/")}/'):
            return f'{names[root]}{path[len(root.rstrip("/")) :].lstrip("/")}'
    return Path(path).name or path


def _is_absolute(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value)
