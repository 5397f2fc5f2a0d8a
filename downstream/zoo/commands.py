"""The commands of ``tools/zoo.py``."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from backbones.errors import ConfigError, DataError

from .figures import measured_figures, published_figures
from .pages import in_short
from .roadmap import table as roadmap
from .table import Row, find_row, matching, sweep_of

# Stands for the steps from ResNet to ConvNeXt in the list of rows.
_ROADMAP = 'roadmap'


def list_rows(**conditions) -> None:
    """Print the rows that match the conditions of :func:`.table.matching`."""
    table = Table('row', 'AP or mIoU', 'M params', 'GMACs', 'licence')
    for row in matching(**conditions):
        millions, gmacs = f'{row.params / 1e6:.1f}', f'{row.gmacs:.0f}'
        table.add_row(row.name, in_short(row.published), millions, gmacs, row.licence)
    Console(width=150).print(table)


def show(name: str) -> None:
    """Print every field of a row."""
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
        'repeated by': '; '.join(
            f'{found.by} {in_short(found.figures)} ({found.source})' for found in row.repetitions
        )
        or '-',
        'parameters': f'{row.params:,}',
        'GMACs': f'{row.gmacs:.2f}',
        'note': row.note or '-',
    }
    for field, value in facts.items():
        print(f'{field:>11}: {value}')


def check(names: list[str]) -> None:
    """Check rows and print a table of the results.

    Args:
        names: Rows to check, ``roadmap`` for the steps from ResNet to ConvNeXt; empty: all of them.

    Raises:
        ConfigError: A check failed; the message lists every failure.
    """
    from .checks import CHECKS, check_row

    chosen = [find_row(name) for name in names if name != _ROADMAP] if names else matching()
    table = Table('row', *CHECKS)
    failed = []
    for row in track(chosen, 'checking', transient=True, disable=not sys.stdout.isatty()):
        results = check_row(row)
        failures = [f'{title}: {result}' for title, result in results.items() if 'FAIL' in result]
        failed += [f'{row.name}: {text.replace("FAIL ", "")}' for text in failures]
        marks = (('[red]FAIL[/]' if 'FAIL' in r else '[green]pass[/]') for r in results.values())
        table.add_row(row.name, *marks)
    if chosen:
        Console(width=150).print(table)
    steps = _check_roadmap(failed) if not names or _ROADMAP in names else []
    if failed:
        raise ConfigError(f'{len(failed)} checks failed:\n' + '\n'.join(failed))
    print(
        f'{len(chosen) + len(steps)} rows, '
        f'{len(chosen) * len(CHECKS) + sum(map(len, steps))} checks passed.'
    )


def _check_roadmap(failed: list[str]) -> list[dict[str, str]]:
    """Print the results of the steps, and add those that failed to ``failed``."""
    found = []
    titles = ('parameters', 'GMACs', 'weights')
    table = Table('backbone', *titles)
    for name, results in roadmap.check():
        found.append(results)
        failed += [f'{name}: {k}: {v[5:]}' for k, v in results.items() if v.startswith('FAIL')]
        table.add_row(name, *(results.get(title, '-') for title in titles))
    Console(width=150).print(table)
    return found


def compare(result: str, name: str) -> None:
    """Print the metrics of a run beside the published ones.

    Args:
        result: A ``metrics.json`` of ``tools/test.py``.
        name: Name of a row.

    Raises:
        DataError: The file is not a ``metrics.json``, or belongs to the other task.
    """
    row = find_row(name)
    measured = measured_figures(_report(Path(result), row))
    published = published_figures(row)
    table = Table('figure', 'published', 'yours', 'difference')
    for figure, value in measured.items():
        reference = published.get(figure)
        table.add_row(
            figure,
            '-' if reference is None else f'{reference:.2f}',
            '-' if value is None else f'{value:.2f}',
            '-' if value is None or reference is None else f'{value - reference:+.2f}',
        )
    Console(width=100).print(table)


def _report(path: Path, row: Row) -> dict:
    try:
        report = json.loads(path.read_text())
        measured_figures(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is not a metrics.json of tools/test.py: {error}') from error
    if report.get('task') != row.task:
        raise DataError(
            f'{path} has results of {report.get("task")}; {row.name} is a row of {row.task}.'
        )
    return report


def plan(name: str, gpus: int, memory: float | None) -> None:
    """Print how to train a row on the given hardware.

    Args:
        name: Name of a row.
        gpus: Number of GPUs.
        memory: Memory of each GPU in GiB. None: unlimited.
    """
    from .plan import describe_plan, plan_training

    row = find_row(name)
    print(describe_plan(row, plan_training(row, gpus, memory)))


def sweep(name: str) -> None:
    """Print a command for each combination of the hyperparameters that the paper searched."""
    row = find_row(name)
    keys, values = zip(*sweep_of(row).items())
    for number, chosen in enumerate(product(*values)):
        options = ' '.join(f'{key}={value:g}' for key, value in zip(keys, chosen))
        print(
            f'tools/dist_train.sh configs/{row.config} 8 --work-dir work_dirs/{row.name}_{number:02d} '
            f'--cfg-options {options}'
        )
