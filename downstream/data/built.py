"""Data sets that are built once, although their length is needed before the run that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from copy import deepcopy

from mmengine.registry import DATASETS

# Config and data set of at most one that waits: reading COCO's annotations takes half a minute.
_waiting: list[tuple[dict, object]] = []


def build_ahead(dataset: Mapping) -> Sized:
    """Build a data set to look at; :func:`build` returns the same one to whoever asks for it next.

    It must not be changed.

    Args:
        dataset: Its config.
    """
    built = build(dataset)
    assert isinstance(built, Sized)
    _waiting[:] = [(deepcopy(dict(dataset)), built)]
    return built


def build(dataset: Mapping) -> object:
    """Build a data set, or take the one of the same config that was built ahead; it is given once."""
    waiting = _waiting[:]
    _waiting.clear()
    for config, built in waiting:
        if config == dataset:
            return built
    return DATASETS.build(dataset)
