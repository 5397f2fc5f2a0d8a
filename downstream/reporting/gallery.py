"""Pictures that a reader sorts by kind of error and filters by class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from downstream.markup import Markup, element, html

from .parts import none

# Of all galleries of a page together, so that it stays below 10 MB.
MOST_PICTURES = 100
_FEWEST = 8


@dataclass(frozen=True)
class Shown:
    """A picture.

    Attributes:
        picture: A data URL.
        title: Of it.
        counts: Kind of error -> how much of it; pictures are sorted by these. ``'all'`` comes first.
        classes: Names of what is in it.
        tags: Said of it, beside the title.
    """

    picture: str
    title: str
    counts: Mapping[str, float]
    classes: Sequence[str]
    tags: Sequence[str]


def share(galleries: int, part: float) -> int:
    """How many pictures each of several galleries may have.

    Args:
        galleries: How many there are of this kind.
        part: Of all pictures of the page.
    """
    return max(_FEWEST, int(MOST_PICTURES * part) // max(1, galleries))


def gallery(name: str, shown: Sequence[Shown], kinds: Mapping[str, str], missing: int) -> Markup:
    """Pictures with a choice of order and of class.

    Args:
        name: A word that no other gallery of the page has.
        shown: The pictures.
        kinds: Kind -> what it is, for the choice of order.
        missing: How many could not be read.
    """
    note = none(f'{missing} images could not be read.') if missing else html()
    if not shown:
        return html(note, none('There is nothing to show.'))
    classes = sorted({one for picture in shown for one in picture.classes})
    orders = [element('option', f'most {text}', value=kind) for kind, text in kinds.items()]
    only = [element('option', 'every class', value='')]
    only += [element('option', one, value=one) for one in classes]
    choice = element(
        'div',
        element('label', 'order ', element('select', *orders)),
        element('label', 'class ', element('select', *only)),
        element('output', '', class_='soft'),
        class_='filters',
        data_gallery=name,
    )
    figures = [_figure(place, one) for place, one in enumerate(shown)]
    return html(note, choice, element('div', *figures, class_='pictures', id=name))


def _figure(place: int, one: Shown) -> Markup:
    tags = [element('span', tag, class_='tag') for tag in one.tags]
    image = element('img', src=one.picture, alt=one.title)
    return element(
        'figure',
        Markup(image.removesuffix('</img>')),
        element('figcaption', element('b', one.title), element('div', *tags)),
        data_place=place,
        data_counts=json.dumps(one.counts),
        data_classes=json.dumps(list(one.classes)),
    )
