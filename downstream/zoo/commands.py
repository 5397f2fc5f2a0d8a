"""What ``tools/zoo.py`` does."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from backbones.errors import ConfigError, DataError

from .pages import figures
from .table import Row, find_row, matching, sweep_of


def list_rows(**conditions) -> None:
    """Print the rows that fulfil the conditions of :func:`.table.matching`."""
    table = Table('row', 'AP or mIoU', 'M params', 'GMACs', 'licence')
    for row in matching(**conditions):
        millions, gmacs = f'{row.params / 1e6:.1f}', f'{row.gmacs:.0f}'
        table.add_row(row.name, figures(row), millions, gmacs, row.licence)
    Console(width=150).print(table)


def show(name: str) -> None:
    """Print all that is known of a row."""
    row = find_row(name)
    facts = {
        'config': f'configs/{row.config}',
        'paper': f'{row.paper} ({row.table})' if row.paper else 'beyond the papers',
        'method': row.method,
        'backbone': row.backbone,
        'weights': row.weights or 'not released',
        'licence': row.licence,
        'schedule': row.schedule,
        'data': row.data,
        'published': json.dumps(row.published) if row.published else '-',
        'source': row.source,
        'parameters': f'{row.params:,}',
        'GMACs': f'{row.gmacs:.2f}',
        'note': row.note or '-',
    }
    for what, value in facts.items():
        print(f'{what:>11}: {value}')


def check(names: list[str]) -> None:
    """Check rows, all of them without names.

    Raises:
        ConfigError: A check failed.
    """
    from .checks import CHECKS, check_row

    chosen = [find_row(name) for name in names] or matching()
    table = Table('row', *CHECKS)
    failed = []
    for row in track(chosen, 'checking', transient=True, disable=not sys.stdout.isatty()):
        results = check_row(row)
        wrong = [f'{title}: {result}' for title, result in results.items() if 'FAIL' in result]
        failed += [f'{row.name}: {words.replace("FAIL ", "")}' for words in wrong]
        marks = (('[red]FAIL[/]' if 'FAIL' in r else '[green]pass[/]') for r in results.values())
        table.add_row(row.name, *marks)
    Console(width=150).print(table)
    if failed:
        raise ConfigError(f'{len(failed)} checks failed:\n' + '\n'.join(failed))
    print(f'{len(chosen)} rows, {len(chosen) * len(CHECKS)} checks passed.')


def compare(result: str, name: str) -> None:
    """Print a run's own figures beside the published ones.

    Args:
        result: A ``metrics.json`` of ``tools/test.py``.
        name: Of a row.

    Raises:
        DataError: The file is none, or of the other task.
    """
    row = find_row(name)
    own = _own_figures(Path(result), row)
    table = Table('figure', 'published', 'yours', 'difference')
    for what, value in own.items():
        published = _published(row).get(what)
        known = published is not None and value is not None
        table.add_row(
            what,
            '-' if published is None else f'{published:.2f}',
            '-' if value is None else f'{value:.2f}',
            f'{value - published:+.2f}' if known else '-',
        )
    Console(width=100).print(table)


def _published(row: Row) -> dict[str, float]:
    found = {}
    for kind, figure in row.published.items():
        if isinstance(figure, list):
            found |= {f'{kind} {name}': v for name, v in zip(('AP', 'AP50', 'AP75'), figure)}
        else:
            found[kind] = figure
    return found


def _own_figures(path: Path, row: Row) -> dict[str, float | None]:
    try:
        report = json.loads(path.read_text())
        metrics = report['metrics']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path} is no metrics.json of tools/test.py: {error}') from error
    if report.get('task') != row.task:
        raise DataError(f'{path} is of {report.get("task")}; {row.name} is of {row.task}.')
    if row.task == 'segmentation':
        return {'mIoU multi-scale' if report.get('tta') else 'mIoU': metrics['mIoU']}
    return {
        f'{ours} {name}': None if metrics[theirs][name] is None else 100 * metrics[theirs][name]
        for ours, theirs in (('box', 'bbox'), ('mask', 'segm'))
        if theirs in metrics
        for name in ('AP', 'AP50', 'AP75')
    }


def plan(name: str, gpus: int, memory: float | None) -> None:
    """Print how to train a row on some GPUs."""
    from .plan import in_words
    from .plan import plan as make

    row = find_row(name)
    print(in_words(row, make(row, gpus, memory)))


def sweep(name: str) -> None:
    """Print a command for every combination of the values that the paper swept."""
    row = find_row(name)
    keys, values = zip(*sweep_of(row).items())
    for number, chosen in enumerate(product(*values)):
        options = ' '.join(f'{key}={value:g}' for key, value in zip(keys, chosen))
        print(
            f'tools/dist_train.sh configs/{row.config} 8 --work-dir work_dirs/{row.name}_{number:02d} '
            f'--cfg-options {options}'
        )
