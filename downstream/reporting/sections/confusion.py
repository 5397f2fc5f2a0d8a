"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.markup import Markup, html

from ..matrix import confusion
from ..parts import Section, none, panels, soft
from ..runs import Run


def section(runs: Sequence[Run]) -> Section:
    """A confusion matrix for each run."""
    bodies = [(run.name, _of(run)) for run in runs if run.kinds]
    body = panels('confusion', bodies) if bodies else none('No test with detections.')
    return Section('confusion', 'Confusion', body)


def _of(run: Run) -> Markup:
    analysis = run.kinds.get('box') or run.kinds.get('mask')
    if analysis is None or isinstance(analysis, str):
        return none(f'{run.name}: {analysis}')
    names = [one.name for one in analysis.classes]
    found = analysis.confusion
    return html(
        soft(
            f'Rows: objects; columns: detections with a score of at least {found.min_score:.3f}, the '
            f'best threshold for all classes together, at an IoU of {analysis.iou:g}. Tint: share '
            'of the row.'
        ),
        confusion([*names, 'nothing'], [*names, 'missed'], found.matrix),
    )
