"""The recipe that a run's config came from, and how the run differs from it and from other runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.paths import CONFIGS, find_config
from downstream.zoo.table import Row, find_row

# The keys that a run reads; others are there for these to use.
_USED = {
    'auto_scale_lr', 'default_hooks', 'custom_hooks', 'load_from', 'log_processor', 'model',
    'optim_wrapper', 'param_scheduler', 'randomness', 'test_cfg', 'test_dataloader',
    'test_evaluator', 'train_cfg', 'train_dataloader', 'val_cfg', 'val_dataloader',
    'val_evaluator',
}  # fmt: skip
_MOST_BASES = 20


def recipe_of(config: str | Path) -> Path | None:
    """The recipe of this suite that a config is, or is based on.

    Args:
        config: A file, or a name as ``tools/train.py`` takes it.

    Returns:
        A file below ``configs``; None if there is none.
    """
    path = find_config(str(config))
    for _ in range(_MOST_BASES):
        if path is None:
            return None
        if CONFIGS.resolve() in path.resolve().parents:
            return path
        path = _base_of(path)
    return None


def row_of(recipe: Path | None) -> Row | None:
    """The papers' row that a recipe is; None if it is none."""
    try:
        return find_row(recipe.stem) if recipe else None
    except ConfigError:
        return None


def _base_of(path: Path) -> Path | None:
    """The config that another one is based on, where it is based on a single one."""
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'))
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if not isinstance(node, ast.Assign) or getattr(node.targets[0], 'id', None) != '_base_':
            continue
        try:
            bases = ast.literal_eval(node.value)
        except ValueError:
            return None
        bases = [bases] if isinstance(bases, str) else list(bases)
        if len(bases) != 1:
            return None
        return find_config(bases[0]) if '::' in bases[0] else _existing(path.parent / bases[0])
    return None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def flat(config: Config | Mapping) -> dict[str, object]:
    """The values of a config by their dotted keys, without what only says where a run is."""
    found: dict[str, object] = {}

    def collect(value: object, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                collect(inner, f'{key}.{name}' if key else str(name))
        elif isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
            for place, inner in enumerate(value):
                collect(inner, f'{key}[{place}]')
        else:
            found[key] = list(value) if isinstance(value, tuple) else value

    collect(config.to_dict() if isinstance(config, Config) else config, '')
    return {key: value for key, value in found.items() if _first(key) in _USED}


def _first(key: str) -> str:
    return key.partition('.')[0].partition('[')[0]


def changes(recipe: Config | Mapping, run: Config | Mapping) -> list[tuple[str, object, object]]:
    """``(key, recipe's value, run's value)`` where two configs differ; None: there is no such key."""
    return [(key, old, new) for key, (old, new) in differing([recipe, run]).items()]


def differing(configs: Sequence[Config | Mapping]) -> dict[str, list]:
    """Key -> the value in each config, for keys whose values are not all equal."""
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for one in flats for key in one)
    rows = {key: [one.get(key) for one in flats] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row[1:])}


def same_but_for_the_seed(
    configs: Sequence[Config | Mapping | None], seeds: Sequence[int | None]
) -> list[list[int]]:
    """Places of configs, those together that differ in their seed alone.

    Args:
        configs: None where one is unknown; it stays alone.
        seeds: With which each was trained. Two tests of one training are no two seeds.
    """
    groups: list[tuple[dict | None, list[int]]] = []
    for place, config in enumerate(configs):
        values = None
        if config is not None:
            kept = flat(config).items()
            values = {key: value for key, value in kept if _first(key) != 'randomness'}
        for known, members in groups:
            other = seeds[place] not in (None, *(seeds[one] for one in members))
            if values is not None and known == values and other:
                members.append(place)
                break
        else:
            groups.append((values, [place]))
    return [members for _, members in groups]


def read_recipe(path: Path) -> Config | None:
    """A recipe's config; None where it cannot be read here."""
    try:
        return Config.fromfile(path)
    except Exception:  # a config is a program
        return None
