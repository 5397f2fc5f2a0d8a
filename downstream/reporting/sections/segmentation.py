"""Segmentation: which classes are taken for which, and what becomes of regions of each size."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.analysis.segmentation import Segmentation
from downstream.markup import Markup, element, html

from ..matrix import confusion
from ..parts import Section, count, figure, none, panels, scrolled, soft
from ..runs import Run

_SIZES = {
    'small': 'small, below 32²',
    'medium': 'medium',
    'large': 'large, from 96²',
}


def errors_section(runs: Sequence[Run]) -> Section:
    """Regions by their size, of all runs side by side."""
    notes, analysed = _analysed(runs)
    body = _sizes(analysed) if analysed else html()
    return Section('errors', 'Errors', html(*notes, body))


def confusion_section(runs: Sequence[Run]) -> Section:
    """A confusion matrix of pixels for each run."""
    notes, analysed = _analysed(runs)
    bodies = [(run.name, _confusion(one)) for run, one in analysed]
    body = panels('confusion', bodies) if bodies else html()
    return Section('confusion', 'Confusion', html(*notes, body))


def _analysed(runs: Sequence[Run]) -> tuple[list[Markup], list[tuple[Run, Segmentation]]]:
    notes = [none(f'{run.name}: {run.regions}') for run in runs if isinstance(run.regions, str)]
    found = [(run, run.regions) for run in runs if isinstance(run.regions, Segmentation)]
    if not notes and not found:
        notes = [none('No test with counts.')]
    return notes, found


def _sizes(analysed: Sequence[tuple[Run, Segmentation]]) -> Markup:
    several = len(analysed) > 1
    rows = []
    for size, title in _SIZES.items():
        own = [one.by_size[size] for _, one in analysed]
        if not own[0].regions:
            continue
        cells = [cell for one in own for cell in (figure(one.right), figure(one.found))]
        rows.append([title, count(own[0].regions), count(own[0].pixels), *cells])
    heads = [
        f'{run.name} {name}' if several else name
        for run, _ in analysed
        for name in ('pixels right, %', 'regions found, %')
    ]
    title = element('h3', 'By size of the annotated regions')
    if not rows:
        return html(title, none('Nothing is annotated.'))
    return html(
        title,
        soft(
            'Connected regions of a class, by pixels. A region is found if half of its pixels or more '
            'are predicted as its class.'
        ),
        scrolled(
            ['pixels', *(element('th', h, class_='n') for h in ('regions', 'pixels', *heads))], rows
        ),
    )


def _confusion(one: Segmentation) -> Markup:
    names = list(one.iou)
    return html(
        soft('Pixels. Rows: annotated; columns: predicted. Tint: share of the row.'),
        confusion(names, names, one.confusion),
    )
