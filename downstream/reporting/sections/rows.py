"""Rows for a paper: the figures that papers print, as LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from downstream.markup import element, html
from downstream.zoo.figures import measured_figures

from ..figures import spread
from ..parts import Section, none, soft, to_copy
from ..recipes import same_but_for_the_seed
from ..runs import Run, seed_of

_SPECIAL = re.compile(r'([&%$#_{}])')
_OTHERS = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}'}


def section(runs: Sequence[Run]) -> Section:
    """A row for each run; runs that differ in their seed alone are one row."""
    tested = [run for run in runs if run.test]
    if not tested:
        return Section('rows', 'Rows for a paper', none('There are no figures of a test.'))
    groups = [
        [tested[place] for place in places]
        for places in same_but_for_the_seed(
            [run.config for run in tested], [seed_of(run) for run in tested]
        )
    ]
    found = [[measured_figures(run.test.report) for run in group if run.test] for group in groups]
    names = list(dict.fromkeys(name for group in found for one in group for name in one))
    rows = [
        (_called(group), [_figure([one.get(name) for one in values], len(group)) for name in names])
        for group, values in zip(groups, found)
    ]
    note = soft('Mean ± sample standard deviation where runs differ in their seed alone.')
    return Section(
        'rows',
        'Rows for a paper',
        html(
            note if any(len(group) > 1 for group in groups) else html(),
            element('h3', 'LaTeX'),
            to_copy(latex(names, rows)),
            element('h3', 'Markdown'),
            to_copy(markdown(names, rows)),
        ),
    )


Rows = Sequence[tuple[str, Sequence[tuple[str, str | None]]]]


def latex(names: Sequence[str], rows: Rows) -> str:
    """A table's rows for booktabs.

    Args:
        names: Of the figures.
        rows: Each a name, and a mean and a deviation for each figure.
    """
    lines = [f'\\begin{{tabular}}{{l{"c" * len(names)}}}', '\\toprule']
    lines.append(' & '.join(['', *map(_escaped, names)]).strip() + r' \\')
    lines.append('\\midrule')
    for name, values in rows:
        cells = [
            mean if deviation is None else f'${mean} \\pm {deviation}$'
            for mean, deviation in values
        ]
        lines.append(' & '.join([_escaped(name), *cells]) + r' \\')
    return '\n'.join([*lines, '\\bottomrule', '\\end{tabular}'])


def markdown(names: Sequence[str], rows: Rows) -> str:
    """A table; the same arguments."""
    lines = [_row(['', *names]), _row(['---', *('---:' for _ in names)])]
    for name, values in rows:
        cells = [
            mean if deviation is None else f'{mean} ± {deviation}' for mean, deviation in values
        ]
        lines.append(_row([name.replace('|', '\\|'), *cells]))
    return '\n'.join(lines)


def _row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _escaped(text: str) -> str:
    return ''.join(_OTHERS.get(letter) or _SPECIAL.sub(r'\\\1', letter) for letter in text)


def _called(group: Sequence[Run]) -> str:
    if len(group) == 1:
        return group[0].name
    return f'{group[0].name} ({len(group)} seeds)'


def _figure(values: list[float | None], runs: int) -> tuple[str, str | None]:
    middle, deviation = spread(values)
    if middle is None:
        return '-', None
    return f'{middle:.1f}', None if deviation is None or runs == 1 else f'{deviation:.1f}'
