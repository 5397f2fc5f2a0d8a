"""Detection: what goes wrong, by kind of error, by size of the objects and by their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from downstream.analysis.detection import DetectionAnalysis
from downstream.markup import Markup, element, html

from ..charts import bar
from ..figures import percent
from ..parts import Section, count, figure, none, panels, scrolled, soft
from ..runs import Run

KINDS = {'box': 'boxes', 'mask': 'masks'}
ERRORS = {
    'Cls': 'of another class, in the right place',
    'Loc': 'of the right class, in the wrong place',
    'Both': 'of another class and in the wrong place',
    'Dupe': 'of an object that another one found',
    'Bkg': 'where there is no object',
    'Miss': 'objects that nothing found',
}
Analysed = Sequence[tuple[Run, DetectionAnalysis]]


def section(runs: Sequence[Run]) -> Section:
    """TIDE's errors, figures by size of objects and by objects in an image."""
    return Section('errors', 'Errors', by_kind('errors', runs, _body))


def by_kind(group: str, runs: Sequence[Run], body: Callable[[Analysed], Markup]) -> Markup:
    """``body`` of what was analysed, for boxes and for masks, and why other runs were not."""
    reasons = {
        f'{run.name}: {one}' for run in runs for one in run.kinds.values() if isinstance(one, str)
    }
    bodies = []
    for kind, title in KINDS.items():
        analysed = [
            (run, one) for run in runs if not isinstance(one := run.kinds.get(kind, ''), str)
        ]
        if analysed:
            bodies.append((title, body(analysed)))
    notes = [none(reason) for reason in sorted(reasons)]
    if not bodies:
        return html(*notes) if notes else none('No test with detections.')
    return html(*notes, panels(group, bodies))


def _body(analysed: Analysed) -> Markup:
    return html(_tide(analysed), _sizes(analysed), _counts(analysed))


def _tide(analysed: Analysed) -> Markup:
    most = max(
        [gain for _, one in analysed for name, gain in one.errors.gain.items() if name in ERRORS]
    )
    rows = []
    for name, meaning in ERRORS.items():
        cells = []
        for place, (_, one) in enumerate(analysed):
            gain = one.errors.gain.get(name)
            share = gain / most if gain and most > 0 else 0
            cells += [
                figure(percent(gain)),
                element('td', bar(share, place)),
                count(one.errors.counts.get(name)),
            ]
        rows.append([element('td', element('b', name), f' {meaning}'), *cells])
    iou = analysed[0][1].iou
    return html(
        element('h3', 'Kinds of error'),
        soft(
            f'What AP at an IoU of {iou:g} would gain if all errors of a kind were corrected, in points, '
            'and how many there are (TIDE, Bolya et al. 2020). Gains do not add up.'
        ),
        scrolled(_heads('error', analysed, ('gain', '', 'number')), rows),
    )


def _sizes(analysed: Analysed) -> Markup:
    rows = []
    for place, size in enumerate(analysed[0][1].sizes):
        own = [one.sizes[place] for _, one in analysed]
        if not any(one.objects for one in own):
            continue
        limits = f'{size.low} to {size.high}' if size.high else f'more than {size.low}'
        cells = [
            cell
            for one in own
            for cell in (
                figure(percent(one.ap)),
                figure(percent(one.ap50)),
                figure(percent(one.recall)),
            )
        ]
        rows.append([limits, count(size.objects), *cells])
    return html(
        element('h3', 'By size of the objects'),
        soft('Side in pixels of a square of the same area.'),
        scrolled(_heads('side', analysed, ('AP', 'AP50', 'AR'), ('objects',)), rows)
        if rows
        else none('There is no object.'),
    )


def _counts(analysed: Analysed) -> Markup:
    rows = []
    for place, group in enumerate(analysed[0][1].counts):
        if not group.images:
            continue
        own = [one.counts[place] for _, one in analysed]
        limits = f'{group.low} or more'
        if group.high is not None:
            limits = str(group.low) if group.low == group.high else f'{group.low} to {group.high}'
        cells = [
            cell
            for one in own
            for cell in (
                figure(percent(one.ap)),
                figure(percent(one.found), 1),
                figure(one.false_per_image),
            )
        ]
        rows.append([limits, count(group.images), *cells])
    heads = ('AP', 'found, %', 'wrong an image')
    return html(
        element('h3', 'By number of objects in an image'),
        soft('Found and wrong: of detections above the best threshold of their class.'),
        scrolled(_heads('objects', analysed, heads, ('images',)), rows),
    )


def _heads(
    first: str, analysed: Analysed, names: Sequence[str], common: Sequence[str] = ()
) -> list[object]:
    """Column heads, with the run's name where there are several."""
    several = len(analysed) > 1
    return [
        first,
        *(element('th', name, class_='n') for name in common),
        *(
            element('th', f'{run.name} {name}' if several and name else name, class_='n')
            for run, _ in analysed
            for name in names
        ),
    ]
