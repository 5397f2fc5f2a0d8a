"""Detection: precision over recall, the best score threshold of each class, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.analysis.detection import DetectionAnalysis
from downstream.analysis.thresholds import Threshold
from downstream.markup import Markup, element, html

from ..charts import COLORS, Line, chart, key
from ..figures import percent
from ..parts import Section, column, figure, none, panels, scrolled, soft, words
from ..runs import Run
from .errors import Analysed, by_kind

_UNIT = (0.0, 1.0)
_MOST_CLASSES = 100


def section(runs: Sequence[Run]) -> Section:
    """Curves of all classes together and of each, thresholds, calibration."""
    return Section('curves', 'Precision and scores', by_kind('curves', runs, _body))


def _body(analysed: Analysed) -> Markup:
    kind = analysed[0][1].kind
    return html(
        element('h3', 'Precision and recall'),
        _legend(analysed),
        element('div', *_means(analysed), *_calibration(analysed), class_='charts'),
        _of_classes(analysed),
        element('h3', 'The best score threshold'),
        soft(
            'Where F1, the harmonic mean of precision and recall, is highest at an IoU of '
            f'{analysed[0][1].iou:g}. Keep detections from this score on.'
        ),
        panels(f'thresholds-{kind}', [(run.name, _thresholds(one)) for run, one in analysed]),
    )


def _legend(analysed: Analysed) -> Markup:
    if len(analysed) == 1:
        return html()
    return key([(run.name, place) for place, (run, _) in enumerate(analysed)])


def _means(analysed: Analysed) -> list[Markup]:
    """A chart for each IoU: the mean over classes."""
    charts = []
    for iou in analysed[0][1].curves:
        lines = []
        for place, (run, one) in enumerate(analysed):
            curve = one.curves.get(iou)
            if curve is None or np.isnan(curve.precision).all():
                continue
            known = curve.precision[~np.isnan(curve.precision).all(1)]
            lines.append(_line(run.name, curve.recall, known.mean(0), place))
        if lines:
            charts.append(_pr_chart(f'mean over classes, IoU {iou:g}', lines))
    return charts


def _of_classes(analysed: Analysed) -> Markup:
    """The same for each class, at the lowest IoU."""
    first = analysed[0][1]
    if not first.curves or len(first.classes) == 1:
        return html()
    iou = min(first.curves)
    charts = []
    for number, one_class in enumerate(first.classes[:_MOST_CLASSES]):
        lines = [
            _line(run.name, curve.recall[::2], curve.precision[number, ::2], place)
            for place, (run, one) in enumerate(analysed)
            if (curve := one.curves.get(iou)) and not np.isnan(curve.precision[number]).any()
        ]
        if lines:
            charts.append(_pr_chart(one_class.name, lines))
    summary = f'each class at an IoU of {iou:g}'
    if len(first.classes) > _MOST_CLASSES:
        summary += f' (the first {_MOST_CLASSES})'
    return element('details', element('summary', summary), element('div', *charts, class_='charts'))


def _line(name: str, recall: np.ndarray, precision: np.ndarray, place: int) -> Line:
    return Line(name, recall.tolist(), precision.tolist(), place)


def _pr_chart(title: str, lines: Sequence[Line]) -> Markup:
    return chart(
        title, lines, 'recall', 'precision', x_range=_UNIT, y_range=(0.0, 1.02), legend=False
    )


def _calibration(analysed: Analysed) -> list[Markup]:
    lines = []
    for place, (run, one) in enumerate(analysed):
        bins = [part for part in one.calibration.bins if part['count']]
        if bins:
            error = one.calibration.error
            lines.append(
                Line(
                    f'{run.name}, error {error:.3f}',
                    [part['avg_confidence'] for part in bins],
                    [part['avg_accuracy'] for part in bins],
                    place % COLORS,
                    points=True,
                )
            )
    if not lines:
        return []
    title = 'calibration: share of right detections by score'
    return [
        chart(
            title, lines, 'mean score', 'share right', x_range=_UNIT, y_range=(0.0, 1.02),
            diagonal=True,
        )
    ]  # fmt: skip


def _thresholds(analysis: DetectionAnalysis) -> Markup:
    if analysis.threshold.score is None:
        return none('No threshold finds an object.')
    errors = analysis.calibration.per_class
    rows = [_row(analysis.threshold, analysis.calibration.error)]
    rows += [_row(one, errors.get(one.name)) for one in analysis.thresholds]
    heads = ('threshold', 'F1', 'precision, %', 'recall, %', 'calibration error')
    return scrolled([words('class'), *(column(head) for head in heads)], rows)


def _row(one: Threshold, error: float | None) -> list[object]:
    return [
        element('td', one.name),
        figure(one.score, 3),
        figure(percent(one.f1)),
        figure(percent(one.precision), 1),
        figure(percent(one.recall), 1),
        figure(error, 3),
    ]
