"""The figures of each class, of all runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.markup import Markup, element, html

from ..figures import per_class
from ..parts import Section, column, count, figure, none, panels, scrolled, soft, words
from ..runs import Run


def section(runs: Sequence[Run]) -> Section:
    """A table for each figure that tests have per class."""
    tables = {run.name: per_class(run) for run in runs if run.test}
    classes = list(dict.fromkeys(name for table in tables.values() for name in table))
    if not classes:
        return Section('classes', 'Classes', none('There are no figures of classes.'))
    names = list(
        dict.fromkeys(name for table in tables.values() for row in table.values() for name in row)
    )
    if len(tables) == 1:
        (table,) = tables.values()
        body = _table(runs, classes, [(name, table, name) for name in names])
    else:
        body = panels(
            'classes',
            [
                (name, _table(runs, classes, [(run, table, name) for run, table in tables.items()]))
                for name in names
            ],
        )
    return Section('classes', 'Classes', html(soft('A click on a head sorts.'), body))


def _table(
    runs: Sequence[Run], classes: Sequence[str], columns: Sequence[tuple[str, dict, str]]
) -> Markup:
    numbers = _numbers(runs)
    rows = []
    for name in classes:
        own = [count(number) for number in numbers.get(name, ())]
        values = [figure(table.get(name, {}).get(key)) for _, table, key in columns]
        rows.append([element('td', name), *own, *values])
    heads = [column('objects')] if numbers else []
    return scrolled(
        [words('class'), *heads, *(column(title, down=False) for title, _, _ in columns)], rows
    )


def _numbers(runs: Sequence[Run]) -> dict[str, list[int]]:
    """How many objects each class has, where a run's detections were analysed."""
    for run in runs:
        for analysis in run.kinds.values():
            if not isinstance(analysis, str):
                return {one.name: [one.objects] for one in analysis.classes}
    return {}
