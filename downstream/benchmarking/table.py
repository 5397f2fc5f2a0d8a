"""A benchmark as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table

from .run import Benchmark, Measured
from .timing import Spread

_DASH = '-'
_MIB = 2**20
# Facts that the table shows below itself; the others are for programs.
_SHOWN = ('pictures', 'timed', 'weights', 'rounds', 'device')


def as_json(found: Benchmark) -> dict:
    """A benchmark as JSON has it: seconds, bytes, unrounded."""
    return {
        'facts': found.facts,
        'reference': found.reference,
        'rows': [_flat(asdict(row)) for row in found.rows],
    }


def _flat(row: dict) -> dict:
    """A row with what is known of its model beside what was measured."""
    return row.pop('model') | row


def print_table(found: Benchmark) -> None:
    """The benchmark on the screen, each model on one line however narrow the screen is."""
    columns = _columns(found)
    table = Table(*(Column(name, no_wrap=True) for name in columns))
    for cells in zip(*columns.values()):
        table.add_row(*cells)
    console = Console(width=1000)
    console.width = console.measure(table).maximum
    console.print(table)
    for title, text in _notes(found).items():
        console.print(f'{title:>9}: {text}', highlight=False, soft_wrap=True)


def markdown(found: Benchmark) -> str:
    """The table in Markdown."""
    columns = _columns(found)
    lines = [list(columns), ['---', *['---:'] * (len(columns) - 1)], *zip(*columns.values())]
    rows = [f'| {" | ".join(cells)} |' for cells in lines]
    notes = [f'- {title}: {text}' for title, text in _notes(found).items()]
    return '\n'.join([*rows, '', *notes]) + '\n'


def _notes(found: Benchmark) -> dict[str, str]:
    notes = {title: found.facts[title] for title in _SHOWN}
    if found.reference is not None:
        notes['speed'] = f'how many times as fast as {found.reference}, within each round'
    return notes


def _columns(found: Benchmark) -> dict[str, list[str]]:
    """Cells by the title of their column; a column that says nothing of any model is left out."""
    rows = found.rows
    columns = {
        'model': [row.model.name for row in rows],
        'runtime': [f'{row.model.runtime} {row.model.precision}' for row in rows],
        'params (M)': [_number(row.model.parameters, 1, 1e-6) for row in rows],
        'GMACs': [_number(row.model.gmacs, 1) for row in rows],
        'images/s': [_images(row) for row in rows],
        'latency ms': [_spread(row.latency, 1000) for row in rows],
        '95 % ms': [f'{1000 * row.latency_95:.1f}' for row in rows],
        'weights MiB': [f'{row.model.weight_bytes / _MIB:.0f}' for row in rows],
        'batch MiB': [_number(row.step_bytes, 0, 1 / _MIB) for row in rows],
        'objects': [_number(row.objects, 1) for row in rows],
    }
    if found.facts['protocol'] == "the papers'":
        columns["FPS, papers'"] = [f'{row.fps:.2f}' for row in rows]
    if found.reference is not None:
        columns['speed'] = ['1' if row.speed is None else _spread(row.speed, 1, 2) for row in rows]
    return {title: cells for title, cells in columns.items() if set(cells) != {_DASH}}


def _images(row: Measured) -> str:
    return _spread(row.images_per_second, 1, 2)


def _spread(value: Spread, factor: float, digits: int = 1) -> str:
    low, median, high = (factor * part for part in (value.low, value.median, value.high))
    return f'{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return _DASH if value is None else f'{factor * value:.{digits}f}'
