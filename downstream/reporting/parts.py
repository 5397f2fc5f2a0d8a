"""Parts of the page that its sections share: tables of figures, panels, notes, text to copy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from downstream.markup import DASH, Markup, element, html, table


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Its anchor.
        title: In the row of links and above it.
        body: Its content.
    """

    name: str
    title: str
    body: Markup


def none(text: str) -> Markup:
    """What is said where there is nothing to show, and why."""
    return element('p', text, class_='none')


def soft(*parts: object) -> Markup:
    """What a reader has to know of the figures below."""
    return element('p', *parts, class_='soft')


def figure(value: float | None, digits: int = 2, sign: bool = False) -> Markup:
    """A cell with a number; None is a dash."""
    if value is None:
        return element('td', DASH, class_='n')
    text = f'{value:+.{digits}f}' if sign else f'{value:.{digits}f}'
    return element('td', text, class_='n', data_v=f'{value:.8g}')


def count(value: int | None) -> Markup:
    """A cell with a number of things."""
    return element(
        'td',
        DASH if value is None else f'{value:,}',
        class_='n',
        data_v='' if value is None else value,
    )


def column(title: object, down: bool = True) -> Markup:
    """The head of a column of numbers that sorts its table.

    Args:
        title: Of the column.
        down: Whether the first click puts the largest first.
    """
    return element('th', title, class_='n', data_sort='down' if down else 'up')


def words(title: object) -> Markup:
    """The head of a column of names that sorts its table."""
    return element('th', title, data_sort='up')


def scrolled(
    head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object
) -> Markup:
    """A table that scrolls by itself where it is wider than the page."""
    return element('div', table(head, rows, **attributes), class_='scroll')


def panels(group: str, named: Sequence[tuple[str, Markup]]) -> Markup:
    """Contents of which one is shown at a time, chosen by name; a single one has no choice.

    Args:
        group: A word that no other panels of the page have.
        named: Names and contents.
    """
    if len(named) == 1:
        return named[0][1]
    buttons = [
        element('button', name, type='button', data_panel=f'{group}-{place}')
        for place, (name, _) in enumerate(named)
    ]
    bodies = [
        element('div', content, id=f'{group}-{place}') for place, (_, content) in enumerate(named)
    ]
    return html(element('div', *buttons, class_='tabs'), *bodies)


def to_copy(text: str) -> Markup:
    """Text with a button that copies it."""
    return element(
        'div', element('button', 'copy', type='button'), element('pre', text), class_='copied'
    )
