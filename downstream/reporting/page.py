"""The page: its sections in their order, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from downstream.analysis.kept import TestRun
from downstream.analysis.same import refuse_different
from downstream.atomic import atomic
from downstream.markup import Markup, document, element
from downstream.running.checkpoint.files import raise_on_full_disk

from .parts import Section
from .runs import Run, read_runs
from .sections import (
    classes,
    confusion,
    curves,
    differences,
    errors,
    pictures,
    rows,
    segmentation,
    setup,
    summary,
    suspects,
    training,
)

_STYLE = Path(__file__).with_name('style.css')
_SCRIPT = Path(__file__).with_name('script.js')
_PREFIX = {'detection': 'Detection: ', 'segmentation': 'Segmentation: ', None: ''}


def write_page(
    runs: Sequence[str | Path],
    path: Path,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """One page of HTML about runs of one task. It needs no other file and no network.

    Args:
        runs: Each a work dir, a folder with a ``metrics.json``, or that file.
        path: The page.
        names: By which it calls the runs; None: the last folders of their paths.
        title: Of the page; None: the names.

    Returns:
        ``path``.

    Raises:
        UserError: A run has neither a test nor logs of a training, the runs are of both tasks or were
            tested on different data, or the page cannot be written.
    """
    read = read_runs(runs, names)
    _refuse_different([run.test for run in read if run.test])
    title = title or _PREFIX[read[0].task] + _listed([run.name for run in read])
    content = document(
        title,
        _STYLE.read_text(encoding='utf-8'),
        _body(title, _sections(read)),
        script=_SCRIPT.read_text(encoding='utf-8'),
    )
    with raise_on_full_disk(path.parent, 'make room and make the page again.'):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
    return path


def _refuse_different(tests: Sequence[TestRun]) -> None:
    """Refuse tests of different data or protocols, where they say what they tested."""
    known = [test for test in tests if test.data.get('digest')]
    for other in known[1:]:
        refuse_different(known[0], other)


def _sections(runs: Sequence[Run]) -> list[Section]:
    recounted, reasons = differences.recounted(runs)
    found = [summary.section(runs, recounted)]
    if len(runs) > 1:
        found.append(differences.section(recounted, reasons, runs[0].name))
    found.append(classes.section(runs))
    if runs[0].task == 'segmentation':
        found += [
            segmentation.errors_section(runs),
            segmentation.confusion_section(runs),
            pictures.segmentation_section(runs),
        ]
    elif runs[0].task == 'detection':
        parts = (errors.section, curves.section, confusion.section)
        found += [part(runs) for part in (*parts, pictures.detection_section, suspects.section)]
    return [
        *found,
        training.section(runs),
        setup.changes_section(runs),
        setup.environment_section(runs),
        rows.section(runs),
    ]


def _body(title: str, sections: Sequence[Section]) -> Markup:
    links = [element('a', one.title, href=f'#{one.name}') for one in sections]
    bodies = [
        element('section', element('h2', one.title), one.body, id=one.name) for one in sections
    ]
    made = datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
    header = element(
        'header',
        element('nav', *links),
        element('button', 'light / dark', id='theme', type='button'),
        class_='top',
    )
    head = (element('h1', title), element('p', f'Made {made} by tools/report.py.', class_='soft'))
    return element('body', header, element('main', *head, *bodies))


def _listed(names: Sequence[str]) -> str:
    return (
        ', '.join(names)
        if len(names) <= 4
        else f'{", ".join(names[:3])} and {len(names) - 3} others'
    )
