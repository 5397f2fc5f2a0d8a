"""The table of a comparison: Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Column, Table

from downstream.running.checkpoint.files import write_text

from .figures import CONFIDENCE, Row, Spread
from .plan import CompareOptions, Plan

_DASH = '-'
# Attributes of a row that are columns of the CSV.
_PLAIN = (
    'backbone',
    'parameters',
    'backbone_parameters',
    'gmacs',
    'step_seconds',
    'images_per_second',
    'peak_gib',
    'runs',
    'done',
)


def write_tables(made: Plan, options: CompareOptions, rows: Sequence[Row]) -> None:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``table.json`` into the folder."""
    facts = _facts(made, options)
    for name, text in {
        'table.md': _markdown(rows, facts),
        'table.tex': _latex(rows, facts),
        'table.csv': _csv(rows),
        'table.json': _json(rows, facts, made),
    }.items():
        write_text(made.folder / name, text)


def _facts(made: Plan, options: CompareOptions) -> dict[str, str]:
    """What a reader of the table must know of it."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'the CPU'
    size = next((c.size for c in made.candidates if c.size), None)
    facts = {
        'recipe': options.recipe.config if not options.data else f'{made.recipe.config}',
        'date': time.strftime('%Y-%m-%d'),
        'device': f'{device}, PyTorch {torch.__version__}',
        'seeds': f'{options.seeds}; figures are mean ± standard deviation over them',
        'difference': f'to {made.candidates[0].name}, with its {100 * CONFIDENCE:.0f} % interval over '
        + ('the images of the test' if options.seeds == 1 else "seeds (Welch's t)"),
    }
    if options.cfg_words:
        facts['--cfg-options'] = ' '.join(options.cfg_words)
    if size:
        facts['multiply-adds'] = f'of one image of {size[1]} x {size[0]}, as the papers count them'
    jobs = max(run.jobs for run in made.runs)
    if jobs > 1:
        facts['speed'] = f'with up to {jobs} runs at a time on one machine'
    return facts


def _header(rows: Sequence[Row]) -> list[str]:
    names = [
        'backbone',
        'params (M)',
        'of it backbone (M)',
        'GMACs',
        'train s/step',
        'test images/s',
    ]
    if any(row.peak_gib is not None for row in rows):
        names.append('peak GiB')
    for figure in _figure_names(rows):
        names += [figure, 'difference']
    return [*names, 'runs']


def _figure_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.figures))


def _cells(row: Row, rows: Sequence[Row], plus_minus: str) -> list[str]:
    cells = [
        row.backbone,
        f'{row.parameters / 1e6:.1f}',
        f'{row.backbone_parameters / 1e6:.1f}',
        _number(row.gmacs, 1),
        _number(row.step_seconds, 3),
        _number(row.images_per_second, 1),
    ]
    if any(other.peak_gib is not None for other in rows):
        cells.append(_number(row.peak_gib, 1))
    for name in _figure_names(rows):
        figure = row.figures.get(name, Spread(()))
        cells += [_figure(figure, plus_minus), _difference(figure)]
    return [*cells, str(row.done) if row.done == row.runs else f'{row.done} of {row.runs}']


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None else f'{value:.{digits}f}'


def _figure(figure: Spread, plus_minus: str) -> str:
    if figure.mean is None:
        return _DASH
    spread = '' if figure.deviation is None else f' {plus_minus} {figure.deviation:.1f}'
    return f'{figure.mean:.1f}{spread}'


def _difference(figure: Spread) -> str:
    if figure.difference is None:
        return _DASH
    interval = '' if figure.low is None else f' [{figure.low:+.1f}, {figure.high:+.1f}]'
    return f'{figure.difference:+.1f}{interval}'


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table alone, in Markdown."""
    header = _header(rows)
    lines = [header, ['---', *['---:'] * (len(header) - 1)]]
    lines += [_cells(row, rows, '±') for row in rows]
    return [f'| {" | ".join(cells)} |' for cells in lines]


def _markdown(rows: Sequence[Row], facts: dict[str, str]) -> str:
    notes = [f'- {name}: {text}' for name, text in facts.items()]
    return '\n'.join([*table_lines(rows), '', *notes]) + '\n'


def _latex(rows: Sequence[Row], facts: dict[str, str]) -> str:
    header = _header(rows)
    lines = [f'% {name}: {text}' for name, text in facts.items()]
    lines += [r'\begin{tabular}{l' + 'r' * (len(header) - 1) + '}', r'\hline']
    lines += [' & '.join(map(_escaped, header)) + r' \\', r'\hline']
    for row in rows:
        cells = _cells(row, rows, '±')
        lines.append(' & '.join(_escaped(cell) for cell in cells) + r' \\')
    return '\n'.join([*lines, r'\hline', r'\end{tabular}']) + '\n'


def _escaped(text: str) -> str:
    for sign in '&%$#_{}':
        text = text.replace(sign, f'\\{sign}')
    return text.replace('±', r'$\pm$')


def _csv(rows: Sequence[Row]) -> str:
    """Unrounded, a column for each number."""
    output = io.StringIO()
    names = _figure_names(rows)
    parts = ('mean', 'deviation', 'difference', 'low', 'high')
    writer = csv.writer(output, lineterminator='\n')
    writer.writerow([*_PLAIN, *(f'{name} {part}' for name in names for part in ('n', *parts))])
    for row in rows:
        cells = [getattr(row, name) for name in _PLAIN]
        for name in names:
            figure = row.figures.get(name, Spread(()))
            cells += [len(figure.values), *(getattr(figure, part) for part in parts)]
        writer.writerow(['' if cell is None else cell for cell in cells])
    return output.getvalue()


def _json(rows: Sequence[Row], facts: dict[str, str], made: Plan) -> str:
    runs = [
        {
            'backbone': run.backbone,
            'seed': run.seed,
            'folder': str(run.folder.relative_to(made.folder)),
            'metrics': str(run.metrics.relative_to(made.folder)) if run.metrics else None,
            'seconds': round(run.seconds, 1),
            'failure': run.failure,
        }
        for run in made.runs
    ]
    content = {'facts': facts, 'rows': [row.as_dict() for row in rows], 'runs': runs}
    return json.dumps(content, indent=2) + '\n'


def print_table(rows: Sequence[Row]) -> None:
    """The table on the screen, each row on one line however narrow it is."""
    header = _header(rows)
    table = Table(*(Column(name, no_wrap=True) for name in header))
    for row in rows:
        table.add_row(*_cells(row, rows, '±'))
    console = Console(width=1000)
    console.width = console.measure(table).maximum
    console.print(table)
