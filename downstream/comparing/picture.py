"""Figure against cost: a point for each backbone, its spread, and its name where there is room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from .figures import Row

# What a picture is drawn against: attribute of a row -> name of the axis, what divides it.
_COSTS = {
    'gmacs': ('multiply-adds of one image (billions)', 1.0),
    'parameters': ('parameters (millions)', 1e6),
}
_FONT = 8
_RINGS = (6, 12, 20, 30, 42, 56, 72, 90)  # distance of a name from its point, in points
_DIRECTIONS = 16


def draw(rows: Sequence[Row], folder: Path) -> Figure | None:
    """Write ``cost.png`` and ``cost.svg``: a panel for each figure and cost.

    Returns:
        The picture; None where no row has a figure yet.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    names = [n for n in names if any(_mean(row, n) is not None for row in rows)]
    costs = [cost for cost in _COSTS if any(getattr(row, cost) is not None for row in rows)]
    if not names or not costs:
        return None
    figure = Figure(figsize=(5.2 * len(costs), 3.9 * len(names)), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(names), len(costs), squeeze=False)
    colors = {row.backbone: f'C{i % 10}' for i, row in enumerate(rows)}
    for name, line in zip(names, panels):
        for cost, axes in zip(costs, line):
            _points(axes, rows, name, cost, colors)
    canvas.draw()  # the layout must stand before room for names can be found
    figure.set_layout_engine('none')
    for name, line in zip(names, panels):
        for cost, axes in zip(costs, line):
            shown = _shown(rows, name, cost)
            place_names(axes, [(row.backbone, x, y, half) for row, x, y, half in shown])
    for suffix in ('png', 'svg'):
        figure.savefig(folder / f'cost.{suffix}', dpi=150)
    return figure


def _mean(row: Row, name: str) -> float | None:
    return row.figures[name].mean if name in row.figures else None


def _shown(rows: Sequence[Row], name: str, cost: str) -> Iterator[tuple[Row, float, float, float]]:
    """Rows with a figure and a cost, with place and spread."""
    for row in rows:
        value, price = _mean(row, name), getattr(row, cost)
        if value is not None and price:
            yield row, price / _COSTS[cost][1], value, row.figures[name].deviation or 0.0


def _points(axes: Axes, rows: Sequence[Row], name: str, cost: str, colors: dict) -> None:
    shown = list(_shown(rows, name, cost))
    for row, x, y, deviation in shown:
        color = colors[row.backbone]
        axes.errorbar(x, y, deviation or None, fmt='o', ms=5, capsize=3, color=color, lw=1)
    axes.set_xscale('log')
    prices = [x for _, x, _, _ in shown] or [1.0]
    room = max((max(prices) / min(prices)) ** 0.25, 1.15)  # names need it at both sides
    low, high = min(prices) / room, max(prices) * room
    axes.set_xlim(low, high)
    decades = LogLocator(subs=(1, 2, 3, 5, 7))
    few = sum(low <= tick <= high for tick in decades.tick_values(low, high)) < 3
    axes.xaxis.set_major_locator(MaxNLocator(5) if few else decades)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.18)
    axes.set_xlabel(_COSTS[cost][0])
    axes.set_ylabel(name)
    axes.grid(alpha=0.25, which='major')
    axes.spines[['top', 'right']].set_visible(False)


def place_names(axes: Axes, points: Sequence[tuple[str, float, float, float]]) -> None:
    """Write a name beside each point, where it covers no other name, point or error bar.

    Args:
        axes: Their limits must not change any more.
        points: Name, place, and half of the error bar, in data coordinates.
    """
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = [_box_of_point(axes, x, y, half, 5 * scale) for _, x, y, half in points]
    for name, x, y, _ in sorted(points, key=lambda point: -point[2]):
        label = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords='offset points', fontsize=_FONT,
            ha='center', va='center', arrowprops=dict(arrowstyle='-', lw=0.5, color='0.6', shrinkA=0,
                                                      shrinkB=4),
        )  # fmt: skip
        size = Text.get_window_extent(label, renderer)  # an annotation's own includes its line
        width, height = size.width / scale, size.height / scale
        place = _free_place(axes.transData.transform((x, y)), width, height, scale, frame, taken)
        label.set_position(place)
        taken.append(_box(axes.transData.transform((x, y)), place, width, height, scale))


def _box_of_point(axes: Axes, x: float, y: float, half: float, radius: float) -> Bbox:
    left, bottom = axes.transData.transform((x, y - half))
    _, top = axes.transData.transform((x, y + half))
    return Bbox.from_extents(left - radius, bottom - radius, left + radius, top + radius)


def _box(
    point: np.ndarray, offset: tuple[float, float], width: float, height: float, scale: float
) -> Bbox:
    """The box of a name that is ``offset`` points away from its point, in pixels."""
    x, y = point[0] + offset[0] * scale, point[1] + offset[1] * scale
    w, h = width * scale / 2, height * scale / 2
    return Bbox.from_extents(x - w, y - h, x + w, y + h)


def _free_place(
    point: np.ndarray,
    width: float,
    height: float,
    scale: float,
    frame: Bbox,
    taken: Sequence[Bbox],
) -> tuple[float, float]:
    """The nearest offset, in points, at which a name covers nothing; else the one that covers least."""
    best, least = (0.0, 0.0), math.inf
    for ring in _RINGS:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            x, y = math.cos(angle), math.sin(angle)
            # The nearest edge of the name is `ring` away, whatever its direction.
            offset = (x * (ring + width / 2), y * (ring + height / 2))
            box = _box(point, offset, width, height, scale)
            covered = sum(_overlap(box, other) for other in taken)
            outside = width * height * scale**2 - _overlap(box, frame)
            if covered + outside < least:
                best, least = offset, covered + outside
            if least < 1e-6:
                return best
    return best


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return 0.0 if common is None else common.width * common.height
