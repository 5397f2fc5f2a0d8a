"""Whether one run is better than another, in all and by class, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backbones.errors import DataError
from downstream.analysis.bootstrap import Recounted, recount
from downstream.analysis.recounting.samples import Difference, Interval
from downstream.markup import Markup, element, html

from ..parts import Section, column, figure, none, panels, scrolled, soft, words
from ..runs import Run

# Names of figures on the page.
NAMES = {'bbox AP': 'box AP', 'segm AP': 'mask AP'}
_METHOD = (
    'Intervals of 95 %, from figures recounted on samples of the images, the same samples for all runs. '
    'They say what other images of the same kind would change, not what another seed would.'
)


def recounted(runs: Sequence[Run]) -> tuple[dict[str, dict[str, Recounted]], list[str]]:
    """Figure -> run's name -> its recounts, and why some have none."""
    found: dict[str, dict[str, Recounted]] = {}
    reasons = []
    for run in runs:
        if run.test is None:
            continue
        metrics = run.test.report['metrics']
        kinds = [kind for kind in ('bbox', 'segm') if kind in metrics] or ['bbox']
        for kind in kinds:
            try:
                one = recount(run.test, kind=kind)
            except DataError as error:
                reasons.append(f'{run.name}: {error}')
                continue
            found.setdefault(one.metric, {})[run.name] = one
    return found, reasons


def section(
    found: Mapping[str, Mapping[str, Recounted]], reasons: Sequence[str], base: str
) -> Section:
    """Each run beside the first one.

    Args:
        found: Of :func:`recounted`.
        reasons: Likewise.
        base: Name of the run that the others are compared with.
    """
    notes = [none(reason) for reason in reasons]
    bodies = []
    for metric, by_run in found.items():
        if base in by_run and len(by_run) > 1:
            bodies.append((NAMES.get(metric, metric), _body(metric, by_run, base)))
    body = panels('differences', bodies) if bodies else none('No two tests can be compared.')
    return Section('differences', 'Differences', html(*notes, soft(_METHOD), body))


def _body(metric: str, by_run: Mapping[str, Recounted], base: str) -> Markup:
    first = by_run[base]
    others = {name: one for name, one in by_run.items() if name != base}
    factor = 100 / first.top
    rows: list[list[object]] = []
    tables = []
    for name, one in others.items():
        try:
            difference = one.minus(first)
        except DataError as error:
            rows.append([name, element('td', str(error), colspan=4)])
            continue
        rows.append([name, *_cells(difference, factor), _verdict(difference)])
        tables.append((f'{name} - {base}', _per_class(difference, factor)))
    heads = [
        column(f'less {base}'),
        element('th', 'interval', class_='n'),
        column(f'P(better than {base}), %'),
        '',
    ]
    parts = [scrolled([words('run'), *heads], rows)]
    if tables:
        parts += [element('h3', 'By class'), panels(f'by-class-{metric[:4].strip()}', tables)]
    return html(*parts)


def _cells(one: Difference, factor: float) -> list[object]:
    tint = 'good' if one.low is not None and one.low > 0 else None
    tint = 'bad' if one.high is not None and one.high < 0 else tint
    value = figure(None)
    if one.figure is not None:
        points = factor * one.figure
        value = element('td', f'{points:+.2f}', class_=f'n {tint or ""}', data_v=f'{points:.8g}')
    better = one.probability_b_better
    return [value, interval(one, factor), figure(None if better is None else 100 * better, 1)]


def interval(one: Difference | Interval, factor: float) -> Markup:
    """A cell with the interval of a figure, in percent."""
    if one.low is None or one.high is None:
        return element('td', None, class_='n')
    sign = '+' if isinstance(one, Difference) else ''
    text = f'{factor * one.low:{sign}.2f} to {factor * one.high:{sign}.2f}'
    return element('td', text, class_='n')


def _verdict(one: Difference) -> str:
    if one.low is None or one.high is None:
        return 'too few images to say'
    if one.low > 0:
        return 'better'
    return 'worse' if one.high < 0 else 'may be chance'


def _per_class(difference: Difference, factor: float) -> Markup:
    rows = [
        [element('td', name), *_cells(one, factor), _verdict(one)]
        for name, one in difference.per_class.items()
    ]
    heads = [
        column('difference'),
        element('th', 'interval', class_='n'),
        column('P(better), %'),
        '',
    ]
    return scrolled([words('class'), *heads], rows)
