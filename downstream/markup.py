"""Pages of HTML that need no other file: what is written is escaped, pictures are part of the page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from downstream.drawing import file_content

DASH = '\N{EN DASH}'
# Colours for light and dark; a page may set color-scheme itself.
STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 3px 10px 3px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
h2 { margin-top: 2em; border-top: 2px solid var(--line); padding-top: .6em; font-size: 18px; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; margin: 10px 0; }
figure { margin: 0; max-width: 660px; }
figcaption { font-size: 12px; max-width: 320px; overflow-wrap: anywhere; }
img { border: 1px solid var(--line); display: block; max-width: 100%; }
code { font-size: 12px; }
"""


class Markup(str):
    """Text that is HTML already; any other is escaped."""

    __slots__ = ()


def html(*parts: object) -> Markup:
    """Parts one after the other: markup as it is, None as a dash, everything else escaped."""
    return Markup(''.join(part if isinstance(part, Markup) else _text(part) for part in parts))


def element(name: str, *parts: object, **attributes: object) -> Markup:
    """An element with its content.

    Args:
        name: E.g. ``'p'``.
        parts: As for :func:`html`.
        attributes: Values are escaped; None leaves one out, True writes its name alone. ``class_`` is
            ``class``, other underscores become hyphens.
    """
    words = ''.join(
        f' {_name(key)}' if value is True else f' {_name(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f'<{name}{words}>{html(*parts)}</{name}>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Markup:
    """A table; cells as for :func:`html`, or whole ``<td>`` elements."""
    header = html(*(_cell('th', cell) for cell in head))
    body = html(*(element('tr', *(_cell('td', cell) for cell in row)) for row in rows))
    return element(
        'table',
        element('thead', element('tr', header)),
        element('tbody', body),
        **attributes,
    )


def document(title: str, style: str, *body: object, script: str = '') -> str:
    """A whole page.

    Args:
        title: Of the window.
        style: CSS, after :data:`STYLE`.
        body: As for :func:`html`.
        script: JavaScript, run at its end.
    """
    code = f'<script>{script}</script>' if script else ''
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style>'
        f'{html(*body)}{code}</html>\n'
    )


def inline(picture: np.ndarray, quality: int | None = None) -> str:
    """A picture as a data URL.

    Args:
        picture: ``(H, W, 3)`` of uint8, RGB.
        quality: Of the JPEG, to 100; None: that of files.
    """
    content = file_content(picture[..., ::-1], quality=quality)
    return f'data:image/jpeg;base64,{base64.b64encode(content).decode()}'


def _name(key: str) -> str:
    return key.rstrip('_').replace('_', '-')


def _cell(name: str, content: object) -> Markup:
    if isinstance(content, Markup) and content.startswith((f'<{name}>', f'<{name} ')):
        return content
    return element(name, content)


def _text(part: object) -> str:
    return DASH if part is None else escape(str(part))
