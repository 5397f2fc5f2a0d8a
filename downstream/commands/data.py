"""What tools/data.py does: check and show a data set."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from backbones.errors import DataError, UserError
from downstream.data.checks.datasets import check_datasets
from downstream.data.doctor.examine import examine
from downstream.data.doctor.page import write_csv, write_page
from downstream.data.doctor.parts import (
    Part,
    failed,
    parts_of_config,
    parts_of_found,
    raw_coco_parts,
)
from downstream.data.doctor.show import write_pictures
from downstream.data.findings.finding import Finding, by_kind, lines
from downstream.data.formats.find import find
from downstream.running.config import RunOptions, read_config
from downstream.running.options.channels import chosen_bands

_FOUND_BROKEN = 1


def check(
    source: str,
    out: Path | None = None,
    task: str | None = None,
    workers: int | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
) -> None:
    """Examine a data set, print what was found, and write a page and a list of it.

    Exits with code 1 if there is an error among the findings.

    Args:
        source: A folder or a file of a data set, or a config.
        out: Folder for ``report.html`` and ``findings.csv``; None: ``work_dirs/check_<name>``.
        task: ``'detection'`` or ``'segmentation'``, where the data set could be both.
        workers: Processes that open files; None: one for each core.
        channels: That a run is to load, of images that are not 8-bit RGB.
        bands: The same, by their numbers.
    """
    chosen = _bands(channels, bands)
    cfg = _config(source, chosen)
    parts = parts_of_config(cfg) if cfg else _parts(Path(source), task, chosen)
    findings = examine(parts, workers)
    if cfg is not None and not any(finding.severity == 'error' for finding in findings):
        findings += _what_training_says(cfg)
    out = out or Path('work_dirs', f'check_{Path(source).stem or Path.cwd().name}')
    out.mkdir(parents=True, exist_ok=True)
    write_csv(findings, out / 'findings.csv')
    write_page(str(source), parts, findings, out / 'report.html')
    _print(parts, findings)
    print(f'{out / "report.html"} shows them, {out / "findings.csv"} lists them all.')
    if any(finding.severity == 'error' for finding in findings):
        sys.exit(_FOUND_BROKEN)


def show(
    source: str,
    out: Path | None = None,
    task: str | None = None,
    count: int = 24,
    only: str | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
) -> None:
    """Write pictures of a data set with its annotations.

    Args:
        source: A folder or a file of a data set, or a config.
        out: Folder for the pictures; None: ``work_dirs/show_<name>``.
        task: ``'detection'`` or ``'segmentation'``, where the data set could be both.
        count: Pictures of each part.
        only: A class that is to be seen in them.
        channels: As in :func:`check`.
        bands: The same.

    Raises:
        UserError: The data set cannot be read, or has no such class.
    """
    chosen = _bands(channels, bands)
    cfg = _config(source, chosen)
    source_path = Path(source)
    parts = (
        parts_of_config(cfg)
        if cfg
        else parts_of_found(find(source_path, task), source_path, chosen)
    )
    for finding in (finding for part in parts for finding in part.findings):
        if finding.kind == 'set':
            raise DataError(finding.message)
    out = out or Path('work_dirs', f'show_{source_path.stem or Path.cwd().name}')
    pictures = write_pictures(parts, out, count, only)
    print(f'{len(pictures)} pictures in {out}')


def _bands(channels: int | None, bands: Sequence[int] | None) -> tuple[int, ...] | None:
    return chosen_bands(Config(dict(channels=channels, bands=bands)))


def _config(source: str, bands: tuple[int, ...] | None) -> Config | None:
    """The config that ``source`` names; None if it is a data set.

    Raises:
        ConfigError: It is neither, or cannot be read.
    """
    if Path(source).exists() and Path(source).suffix != '.py':
        return None
    return read_config(RunOptions(source, bands=bands))


def _parts(source: Path, task: str | None, bands: tuple[int, ...] | None) -> list[Part]:
    """The parts of a data set. One that cannot be read whole is examined as far as it can."""
    try:
        return parts_of_found(find(source, task), source, bands)
    except DataError as error:
        return [*raw_coco_parts(source), failed('', error)]


def _what_training_says(cfg: Config) -> list[Finding]:
    """Why training would stop before its first step although nothing else was found."""
    try:
        check_datasets(cfg, ('train', 'val'))
    except UserError as error:
        return [Finding('run', '', str(error).rstrip('.'))]
    return []


def _print(parts: list[Part], findings: list[Finding]) -> None:
    for part in parts:
        print(f'{part.name or "?":>8}  {len(part.images)} images, {part.holds}, {part.file}')
    for (_, name), group in by_kind(findings).items():
        where = f'{name}: ' if name else ''
        print(f'{group[0].severity:>8}  {where}{lines(group)[0]}')
    counts = Counter(finding.severity for finding in findings)
    shown = ', '.join(f'{counts[key]} {key}' for key in ('error', 'warning', 'repaired'))
    print(f'Findings: {shown}.' if findings else 'Nothing was found.')
