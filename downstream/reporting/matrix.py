"""Confusion matrices as tables whose cells are tinted by their share of the row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.markup import Markup, element, html

from .parts import column, count, figure, none, scrolled, soft, words

# A table of more rows is no longer read.
MOST_CLASSES = 25
_PAIRS = 40
_STRONG = 0.55


def confusion(rows: Sequence[str], columns: Sequence[str], matrix: np.ndarray) -> Markup:
    """A matrix and its largest entries off the diagonal.

    Args:
        rows: Names of what is annotated.
        columns: Names of what is predicted; those of the classes come in the same order.
        matrix: ``(R, R)`` of counts.
    """
    if not matrix.any():
        return none('Nothing was annotated and nothing predicted.')
    wrong = matrix.astype(float)
    np.fill_diagonal(wrong, 0)
    chosen = list(range(len(rows)))
    parts = []
    if len(rows) > MOST_CLASSES:
        most = wrong.sum(1) + wrong.sum(0)
        chosen = sorted(np.argsort(-most, kind='stable')[:MOST_CLASSES].tolist())
        parts.append(soft(f'The {MOST_CLASSES} rows of {len(rows)} with most errors.'))
    parts.append(_table(rows, columns, matrix, chosen))
    parts.append(_pairs(rows, columns, matrix, wrong))
    return html(*parts)


def _table(
    rows: Sequence[str], columns: Sequence[str], matrix: np.ndarray, chosen: list[int]
) -> Markup:
    shares = _shares(matrix)
    head = element('tr', element('th', ''), *(element('th', columns[place]) for place in chosen))
    body = [
        element(
            'tr',
            element('th', rows[row], title=rows[row]),
            *(_cell(matrix[row, one], shares[row, one], row == one) for one in chosen),
        )
        for row in chosen
    ]
    table = element('table', element('thead', head), element('tbody', *body), class_='matrix')
    return element('div', table, class_='scroll')


def _shares(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def _cell(value: int, share: float, right: bool) -> Markup:
    if not value:
        return element('td', '')
    classes = f'heat {"right" if right else "wrong"}{" strong" if share > _STRONG else ""}'
    return element(
        'td', _short(int(value)), class_=classes, style=f'--s:{share:.3f}', title=f'{share:.1%}'
    )


def _short(value: int) -> str:
    for unit, name in ((10**9, 'G'), (10**6, 'M'), (10**4, 'k')):
        if value >= unit:
            return f'{value / (1000 if name == "k" else unit):.3g}{name}'
    return f'{value:,}'


def _pairs(
    rows: Sequence[str], columns: Sequence[str], matrix: np.ndarray, wrong: np.ndarray
) -> Markup:
    order = np.argsort(-wrong, axis=None, kind='stable')[:_PAIRS]
    places = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    if not places:
        return none('Nothing was confused.')
    shares = _shares(matrix)
    listed = scrolled(
        [words('annotated'), words('predicted'), column('count'), column('of the row, %')],
        [
            [
                rows[row],
                columns[one],
                count(int(matrix[row, one])),
                figure(100 * float(shares[row, one]), 1),
            ]
            for row, one in places
        ],
    )
    return html(element('details', element('summary', 'the largest confusions'), listed))
