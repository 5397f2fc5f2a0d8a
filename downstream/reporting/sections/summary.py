"""The figures of the runs, beside the paper's where a run is one of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from downstream.analysis.bootstrap import Recounted
from downstream.analysis.kept import TestRun
from downstream.markup import Markup, element, html
from downstream.zoo.figures import measured_figures, published_figures
from downstream.zoo.table import Row

from ..figures import figures_of, spread
from ..parts import Section, figure, none, scrolled, soft, words
from ..parts import column as number_column
from ..recipes import same_but_for_the_seed
from ..runs import Run, seed_of
from .differences import NAMES
from .differences import interval as interval_cell

# What the validation part of a row's data set has: images and classes.
_DATA_OF_ROWS = {'coco': (5000, 80), 'ade20k': (2000, 150)}


def section(runs: Sequence[Run], recounted: Mapping[str, Mapping[str, Recounted]]) -> Section:
    """The figures of each run with intervals, means over seeds, the paper's row.

    Args:
        runs: All of the page.
        recounted: Of :func:`.differences.recounted`.
    """
    tested = [run for run in runs if run.test]
    parts = [
        none(f'{run.name} has no figures of a test: {run.untested}') for run in runs if not run.test
    ]
    if len(runs) == 1 and tested:
        parts.append(_tiles(runs[0]))
    if len(runs) > 1 and tested:
        parts += [_table(runs), _seeds(runs)]
    parts += [_tested_on(run.test) for run in tested[:1] if run.test]
    intervals = {
        name: (by_run, 100 / next(iter(by_run.values())).top)
        for metric, by_run in recounted.items()
        for name in [NAMES.get(metric, metric)]
    }
    parts.append(_intervals(runs, intervals))
    parts += [
        _paper(run.name, run.test, run.row, intervals) for run in runs if run.test and run.row
    ]
    return Section('summary', 'Summary', html(*parts))


def _intervals(runs: Sequence[Run], intervals: Mapping) -> Markup:
    if not intervals:
        return html()
    rows_of = []
    for name, (by_run, factor) in intervals.items():
        for run in runs:
            if run.name in by_run:
                one = by_run[run.name].interval()
                value = None if one.figure is None else factor * one.figure
                rows_of.append([run.name, name, figure(value), interval_cell(one, factor)])
    return html(
        element('h3', 'Intervals'),
        soft(
            'Of 95 %: what other images of the same kind would change. A dash: too few images to say.'
        ),
        scrolled(
            [
                'run',
                'figure',
                element('th', 'value', class_='n'),
                element('th', 'interval', class_='n'),
            ],
            rows_of,
        ),
    )


def _tiles(run: Run) -> Markup:
    figures = figures_of(run)
    tiles = [
        element('div', element('b', _short(value)), element('span', name), class_='tile')
        for name, value in figures.items()
    ]
    return element('div', *tiles, class_='tiles')


def _short(value: float | None) -> str | None:
    return None if value is None else f'{value:.2f}'


def _table(runs: Sequence[Run]) -> Markup:
    """A table for boxes and one for masks, or one for all figures."""
    tables = []
    for names in _groups(runs):
        rows = [[run.name, *(figure(figures_of(run).get(name)) for name in names)] for run in runs]
        tables.append(scrolled([words('run'), *(number_column(name) for name in names)], rows))
    return html(*tables)


def _groups(runs: Sequence[Run]) -> list[list[str]]:
    """Names of the figures of boxes, of masks, of pixels."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in figures_of(run)):
        word = name.partition(' ')[0]
        groups.setdefault(word if word in ('box', 'mask') else '', []).append(name)
    return list(groups.values())


def _seeds(runs: Sequence[Run]) -> Markup:
    """Mean and spread of runs that differ in their seed alone."""
    groups = [
        [runs[place] for place in places]
        for places in same_but_for_the_seed(
            [run.config for run in runs], [seed_of(run) for run in runs]
        )
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return html()
    tables = []
    for names in _groups(runs):
        heads = [element('th', name, class_='n') for name in names]
        rows = [
            [', '.join(run.name for run in group), len(group), *(_over(group, n) for n in names)]
            for group in groups
        ]
        tables.append(scrolled(['runs', 'seeds', *heads], rows))
    return html(
        element('h3', 'Over seeds'),
        soft('Mean and sample standard deviation of runs whose configs differ in the seed alone.'),
        *tables,
    )


def _over(group: Sequence[Run], name: str) -> Markup:
    middle, deviation = spread([figures_of(run).get(name) for run in group])
    text = None if middle is None else f'{middle:.2f}'
    return element('td', text if deviation is None else f'{text} ± {deviation:.2f}', class_='n')


def _tested_on(test: TestRun) -> Markup:
    data, report = test.data, test.report
    protocol = data.get('protocol') or {}
    said = [f'{data["images"]:,} images' if 'images' in data else None]
    said += [f'{len(test.classes)} classes' if test.classes else None]
    said += [f'annotations {data["annotations"]}' if 'annotations' in data else None]
    said += ['test-time augmentation' if report.get('tta') else None]
    said += [f'tiles of {protocol["tile"]} pixels' if protocol.get('tile') else None]
    text = ', '.join(part for part in said if part)
    unit = 'AP and IoU in percent.'
    return soft(f'Tested on {text}. {unit}' if text else unit)


def _paper(run: str, test: TestRun, row: Row, intervals: Mapping) -> Markup:
    """The figures of the test of a run, by its name, beside those of the row that it is."""
    published = published_figures(row)
    if not published:
        return html()
    rows = []
    for name, value in measured_figures(test.report).items():
        paper = published.get(name)
        by_run, factor = intervals.get(name, ({}, 1))
        interval = html(None)
        if run in by_run and paper is not None:
            one = by_run[run].interval()
            if one.low is not None and one.high is not None:
                low, high = factor * one.low - paper, factor * one.high - paper
                interval = html(f'{low:+.2f} to {high:+.2f}')
        gap = figure(_gap(value, paper), sign=True)
        rows.append([name, figure(paper), figure(value), gap, interval])
    heads = [element('th', name, class_='n') for name in ('paper', 'this run', 'difference')]
    return html(
        element('h3', f'{run} beside the paper'),
        soft(f'{row.name}: {row.source}. {_other_data(test, row)}'),
        scrolled(['figure', *heads, 'interval of the difference'], rows),
    )


def _gap(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference


def _other_data(test: TestRun, row: Row) -> str:
    """What makes the paper's figures another thing than this run's."""
    images, classes = _DATA_OF_ROWS[row.data.partition('-')[0]]
    own = test.data.get('images')
    if len(test.classes) == classes and own == images:
        return ''
    tested = f'{own:,} images' if own is not None else 'images that it does not name'
    return (
        f'Not the same data: the paper tests on {images:,} images of {classes} classes, this run on '
        f'{tested} of {len(test.classes)}.'
    )
