"""Line charts as SVG: no library, no script needed; colours follow the page's light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from downstream.markup import Markup, element, html

COLORS = 8
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 22, 40
# More points than this are averaged: two a pixel are as good as all.
MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: For the legend and under the pointer.
        x: Ascending.
        y: One for each.
        color: Its place in the page's colours.
        points: Whether each value is marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int
    points: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    y_title: str = '',
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    legend: bool = True,
) -> Markup:
    """A figure with its title and, where there are several lines, a legend.

    Args:
        title: Of the figure.
        lines: With a value at least.
        x_title: Of the axis.
        y_title: Likewise.
        x_range: First and last value; None: those of the lines.
        y_range: Likewise, with room.
        diagonal: Whether to draw where both are equal.
        legend: False where the page has one for all charts.
    """
    lines = [_thinned(line) for line in lines if len(line.x)]
    x_low, x_high = x_range or _limits([x for line in lines for x in line.x], room=0)
    y_low, y_high = y_range or _limits([y for line in lines for y in line.y], room=0.05)

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return f'{across:.1f},{down:.1f}'

    drawn = [_grid(x_low, x_high, y_low, y_high, place), _titles(x_title, y_title)]
    if diagonal:
        ends = f'{place(x_low, x_low)} {place(x_high, x_high)}'
        drawn.append(element('polyline', points=ends, class_='diagonal'))
    drawn += [_line(line, place) for line in lines]
    plot = element(
        'svg',
        *drawn,
        viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
        role='img',
        aria_label=title,
        data_x=f'{_LEFT} {_WIDTH - _RIGHT} {x_low:.6g} {x_high:.6g}',
        class_='chart',
    )
    head = element('figcaption', element('b', title))
    below = key([(line.name, line.color) for line in lines]) if legend and len(lines) > 1 else ''
    return element('figure', head, plot, below, class_='plot')


def key(names: Sequence[tuple[str, int]]) -> Markup:
    """A legend: names with their colours."""
    return element(
        'div',
        *(
            element('span', element('i', class_=f'swatch {_class(color)}'), name)
            for name, color in names
        ),
        class_='key',
    )


def bar(share: float, color: int = 0) -> Markup:
    """A small bar in a table cell.

    Args:
        share: Its length, 0 to 1.
        color: As that of a :class:`Line`.
    """
    width = f'width:{100 * min(1.0, max(0.0, share)):.1f}%'
    return element('span', element('i', class_=_class(color), style=width), class_='bar')


def _class(color: int) -> str:
    """The classes of a colour; after the last one they come again, dashed."""
    return f'c{color % COLORS}' + (' again' if color >= COLORS else '')


def _line(line: Line, place) -> Markup:
    places = [place(x, y) for x, y in zip(line.x, line.y)]
    # One value is a point, whatever the chart.
    marked = line.points or len(places) == 1
    marks = [
        element('circle', cx=one.partition(',')[0], cy=one.partition(',')[2], r=3)
        for one in (places if marked else ())
    ]
    stroke = element(
        'polyline',
        points=' '.join(places),
        data_name=line.name,
        data_x=' '.join(f'{x:.6g}' for x in line.x),
        data_y=' '.join(f'{y:.4g}' for y in line.y),
    )
    return element('g', stroke, *marks, class_=f'line {_class(line.color)}')


def _thinned(line: Line) -> Line:
    """A line of at most :data:`MOST_POINTS`, each the mean of its neighbours."""
    every = ceil(len(line.x) / MOST_POINTS)
    if every <= 1:
        return line
    starts = range(0, len(line.x), every)
    x = [_mean(line.x[start : start + every]) for start in starts]
    y = [_mean(line.y[start : start + every]) for start in starts]
    return Line(line.name, x, y, line.color, line.points)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _limits(values: Sequence[float], room: float) -> tuple[float, float]:
    known = [value for value in values if isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if high == low:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low - room * (high - low), high + room * (high - low)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between two, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = ceil(low / step - 1e-9)
    return [number * step for number in range(first, floor(high / step + 1e-9) + 1)]


def _grid(x_low: float, x_high: float, y_low: float, y_high: float, place) -> Markup:
    parts = []
    for value in _ticks(y_low, y_high, 4):
        down = place(x_low, value).partition(',')[2]
        parts.append(element('line', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=down, y2=down))
        parts.append(
            element('text', _number(value), x=_LEFT - 6, y=float(down) + 4, text_anchor='end')
        )
    for value in _ticks(x_low, x_high, 5):
        across = place(value, y_low).partition(',')[0]
        parts.append(
            element(
                'text', _number(value), x=across, y=_HEIGHT - _BOTTOM + 16, text_anchor='middle'
            )
        )
    bottom = _HEIGHT - _BOTTOM
    axis = element(
        'line', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_='axis'
    )  # fmt: skip
    return element('g', *parts, axis, class_='grid')


def _titles(x_title: str, y_title: str) -> Markup:
    across = element('text', x_title, x=_WIDTH - _RIGHT, y=_HEIGHT - 6, text_anchor='end')
    up = element('text', y_title, x=_LEFT, y=_TOP - 10)
    return element('g', html(across, up), class_='titles')


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.3g}'.replace('e-0', 'e-').replace('e+0', 'e')
    return f'{value:.6g}'
