"""Curves of training: losses, rate, validation, time, memory."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.markup import Markup, element, html

from ..charts import MOST_POINTS, Line, chart, key
from ..parts import Section, figure, none, scrolled, soft
from ..runs import Run
from ..scalars import TrainingLog

_TITLES = {
    'loss': 'loss, all terms',
    'lr': 'learning rate',
    'time': 'seconds a step',
    'data_time': 'seconds a step waits for data',
    'memory': 'GPU memory, MiB',
    'grad_norm': 'norm of the gradient',
}
# Place among the runs of the page, name, log.
Logged = tuple[int, str, TrainingLog]
_FIRST = ('loss', 'lr', 'time', 'data_time', 'memory', 'grad_norm')


def section(runs: Sequence[Run]) -> Section:
    """Every figure that was logged, one chart for each, all runs in it."""
    logged = [(place, run.name, run.log) for place, run in enumerate(runs) if run.log]
    parts = [
        none(f'{run.name}: no logs of its training are beside its test or its checkpoint.')
        for run in runs
        if not run.log
    ]
    if logged:
        parts += [_overview(logged)]
        if len(logged) > 1:
            parts.append(key([(name, place) for place, name, _ in logged]))
        parts.append(_validation(logged))
        parts += [_charts(logged)]
    return Section('training', 'Training', html(*parts))


def _overview(logged: Sequence[Logged]) -> Markup:
    rows = []
    for _, name, log in logged:
        memory = log.training.get('memory')
        rows.append(
            [
                name,
                element('td', f'{log.steps:,}', class_='n'),
                element('td', _duration(log.seconds), class_='n'),
                element('td', f'{max(memory.values):,.0f} MiB' if memory else None, class_='n'),
                element('td', len(log.parts) - 1, class_='n'),
                element('td', log.lost, class_='n'),
            ]
        )
    heads = ('steps', 'time in steps', 'most GPU memory', 'resumed', 'values not finite')
    return scrolled(['run', *(element('th', head, class_='n') for head in heads)], rows)


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s'


def _validation(logged: Sequence[Logged]) -> Markup:
    names = _names(logged, validation=True)
    if not names:
        return none('No validation was logged during training.')
    title = element('h3', 'Validation during training')
    curves = [log.validation for _, _, log in logged]
    if all(len(curve.steps) == 1 for found in curves for curve in found.values()):
        return html(title, _validated_once(names, logged))
    charts = [
        _chart(name.rpartition('/')[2].replace('_', ' '), name, logged, validation=True)
        for name in names
    ]
    shown, rest = charts[:6], charts[6:]
    more = (
        element('details', element('summary', f'{len(rest)} more'), _grid(rest)) if rest else html()
    )
    return html(title, _grid(shown), more)


def _validated_once(names: Sequence[str], logged: Sequence[Logged]) -> Markup:
    rows = []
    for name in names:
        found = [log.validation.get(name) for _, _, log in logged]
        rows.append([name, *(figure(curve.values[0] if curve else None, 4) for curve in found)])
    heads = [element('th', name, class_='n') for _, name, _ in logged]
    return html(soft('There was one, as logged:'), scrolled(['figure', *heads], rows))


def _charts(logged: Sequence[Logged]) -> Markup:
    names = _names(logged, validation=False)
    first = [_chart(_TITLES[name], name, logged) for name in _FIRST if name in names]
    terms = [_chart(name, name, logged) for name in names if name not in _FIRST]
    thinned = any(
        len(curve.steps) > MOST_POINTS for _, _, log in logged for curve in log.training.values()
    )
    note = (
        soft(f'Lines of more than {MOST_POINTS} values are drawn as means of neighbours.')
        if thinned
        else html()
    )
    return html(
        element('h3', 'Loss, rate and time'),
        note,
        _grid(first),
        element('h3', 'Terms of the loss, and accuracies') if terms else html(),
        _grid(terms),
    )


def _names(logged: Sequence[Logged], validation: bool) -> list[str]:
    """What was logged, without what is another figure again."""
    names = dict.fromkeys(
        name for _, _, log in logged for name in (log.validation if validation else log.training)
    )
    dropped = {'time', 'data_time', 'memory'} if validation else {'base_lr'}
    return [name for name in names if name not in dropped]


def _chart(title: str, name: str, logged: Sequence[Logged], validation: bool = False) -> Markup:
    lines = []
    for place, run, log in logged:
        curve = (log.validation if validation else log.training).get(name)
        if curve:
            lines.append(Line(run, curve.steps, curve.values, place, points=validation))
    return chart(title, lines, 'step', legend=False)


def _grid(charts: Sequence[Markup]) -> Markup:
    return element('div', *charts, class_='charts') if charts else html()
