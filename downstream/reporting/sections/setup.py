"""How the runs were set up: configs beside their recipes and each other, versions, machines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from downstream.markup import Markup, element, html
from downstream.paths import CONFIGS

from ..parts import Section, none, panels, scrolled, soft, words
from ..recipes import changes, differing, read_recipe
from ..runs import Run, environment_of, seed_of

_LONGEST = 300


def changes_section(runs: Sequence[Run]) -> Section:
    """What differs between the runs, and between each and its recipe."""
    parts = [_between(runs)] if len(runs) > 1 else []
    parts.append(panels('recipe', [(run.name, _from_recipe(run)) for run in runs]))
    return Section('config', 'Config', html(*parts))


def environment_section(runs: Sequence[Run]) -> Section:
    """Versions, machines and seeds, a column for each run; rows that differ are marked."""
    found = [environment_of(run) for run in runs]
    seeds = [seed_of(run) for run in runs]
    if not any(found):
        return Section('environment', 'Environment', none('No environment was recorded.'))
    keys = list(dict.fromkeys(key for one in found for key in one if key != 'seed'))
    rows = [['seed of the training', *seeds]] if any(seed is not None for seed in seeds) else []
    rows += [[key, *(one.get(key) for one in found)] for key in keys]
    marked = [
        [element('td', element('b', row[0]) if len(set(row[1:])) > 1 else row[0]), *row[1:]]
        for row in rows
    ]
    note = soft('Bold: not the same in all runs.') if len(runs) > 1 else html()
    table = scrolled(['', *(run.name for run in runs)], marked)
    return Section('environment', 'Environment', html(note, table))


def _between(runs: Sequence[Run]) -> Markup:
    title = element('h3', 'Between the runs')
    known = [run for run in runs if run.config is not None]
    unknown = [run.name for run in runs if run.config is None]
    note = none(f'No config was found of {", ".join(unknown)}.') if unknown else html()
    if len(known) < 2:
        return html(title, note)
    rows = differing([run.config for run in known])
    if not rows:
        return html(title, note, none('Their configs are the same.'))
    table = scrolled(
        [words('key'), *(run.name for run in known)],
        [[_code(key), *map(_value, row)] for key, row in rows.items()],
    )
    return html(title, note, table)


def _from_recipe(run: Run) -> Markup:
    title = element('h3', f'{run.name} and its recipe')
    if run.config is None:
        return html(title, none('No config of the run was found.'))
    if run.recipe is None:
        return html(title, none('The config is none of this suite and is based on none.'))
    name = run.recipe.resolve().relative_to(CONFIGS.resolve())
    recipe = read_recipe(run.recipe)
    if recipe is None:
        return html(title, none(f'The recipe configs/{name} cannot be read.'))
    said = soft('Recipe: ', _code(f'configs/{name}'))
    rows = changes(recipe, run.config)
    if not rows:
        return html(title, said, none('The run is the recipe, unchanged.'))
    table = scrolled(
        [words('key'), 'recipe', 'run'],
        [
            [_code(key), element('td', _value(old), class_='old'), _value(new)]
            for key, old, new in rows
        ],
    )
    return html(title, said, table)


def _value(value: object) -> Markup:
    """A value of a config; a long one is cut off, and is whole in the tip."""
    if value is None:
        return html(None)
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if len(text) <= _LONGEST:
        return _code(text)
    return element('code', f'{text[:_LONGEST]} …', title=text)


def _code(text: str) -> Markup:
    return element('code', text)
