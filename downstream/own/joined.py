"""Recipes that join several data sets: one of these takes the place of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config

from backbones.errors import ConfigError

from .fit import levels

_LOADERS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Join:
    """Several data sets that a recipe reads as one.

    Attributes:
        loader: ``'train'``, ``'val'`` or ``'test'``.
        count: How many there are.
        depth: How many data sets repeat or mix the joined ones.
        first: Where in the config the first of them is, as code.
    """

    loader: str
    count: int
    depth: int
    first: str


def without_joins(cfg: Config, name: str) -> tuple[Join, ...]:
    """Let the first of the data sets that ``cfg`` joins stand for all of them.

    Args:
        cfg: A recipe; changed in place.
        name: Of it, for messages.

    Returns:
        What was joined.

    Raises:
        ConfigError: Joined data sets have pipelines of their own, or mix images each by itself.
    """
    joins = []
    for loader in _LOADERS:
        path = f'{loader}_dataloader.dataset'
        holder = cfg.get(f'{loader}_dataloader') or {}
        for depth, level in enumerate(list(levels(holder.get('dataset') or {}))):
            if 'datasets' in level:
                parts = list(_parts(level, f'{path}{".dataset" * depth}'))
                _require_one_pipeline([part for part, _ in parts], path, name)
                _require_unmixed(parts[0][0], path, name)
                holder['dataset'], first = parts[0]
                joins.append(Join(loader, len(parts), depth, first))
            holder = level
    return tuple(joins)


def _parts(dataset: Mapping, path: str) -> Iterator[tuple[Mapping, str]]:
    """The innermost data sets of one that joins others, and where they are."""
    if 'datasets' in dataset:
        for place, part in enumerate(dataset['datasets']):
            yield from _parts(part, f'{path}.datasets[{place}]')
    elif isinstance(dataset.get('dataset'), Mapping) and 'pipeline' not in dataset:
        yield from _parts(dataset['dataset'], f'{path}.dataset')
    else:
        yield dataset, path


def _require_unmixed(part: Mapping, path: str, name: str) -> None:
    if 'dataset' in part:
        raise ConfigError(
            f'--data: {name} joins data sets in {path} each of which mixes its own images '
            f'({part.get("type")}): one data set cannot take the place of all; take a recipe that mixes '
            'the images of the joined sets.'
        )


def _require_one_pipeline(parts: Sequence[Mapping], path: str, name: str) -> None:
    pipelines = [part.get('pipeline') for part in parts]
    other = next((i for i, one in enumerate(pipelines) if one != pipelines[0]), None)
    if other is not None:
        raise ConfigError(
            f'--data: {name} joins {len(parts)} data sets in {path}, of which number {other + 1} has '
            'another pipeline than the first: one data set cannot take the place of both; take a recipe '
            'with one pipeline.'
        )
