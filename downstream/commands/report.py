"""What tools/report.py does: a page about runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from downstream.reporting import write_page

_NAME = 'report.html'


def report(
    runs: Sequence[str], out: Path | None = None, names: Sequence[str] | None = None
) -> None:
    """Write a page about runs and say where it is.

    Args:
        runs: Work dirs, folders with a ``metrics.json``, or these files.
        out: The page; None: ``report.html`` in the run's folder, or for several runs in the current one.
        names: By which the page calls them.
    """
    path = out or (_beside(Path(runs[0])) if len(runs) == 1 else Path(_NAME))
    write_page(runs, path, names=names)
    print(f'{path} ({path.stat().st_size / 2**20:.1f} MB)')


def _beside(run: Path) -> Path:
    return (run if run.is_dir() else run.parent) / _NAME
