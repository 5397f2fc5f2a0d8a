"""What a training logged, read from the JSON logs of its work dir; resumed runs joined."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

LOG = 'vis_data/scalars.json'
_RESUMES = re.compile(r"^resume = (True|'auto')", re.MULTILINE)


@dataclass(frozen=True)
class Curve:
    """A figure over the steps of a training.

    Attributes:
        steps: Iterations, ascending.
        values: One for each, finite.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrainingLog:
    """What was logged between the first step and the last.

    Attributes:
        training: Figures of training steps, by name.
        validation: Figures of validations, by name.
        parts: Folders of the runs it was joined from, the first one first.
        lost: How many values were no finite numbers.
    """

    training: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    parts: tuple[Path, ...]
    lost: int

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return max((curve.steps[-1] for curve in self.training.values()), default=0)

    @property
    def seconds(self) -> float | None:
        """What the steps took, validation apart; None where no time was logged."""
        if 'time' not in self.training:
            return None
        curve = self.training['time']
        before = (0, *curve.steps)
        return sum(v * (step - last) for v, step, last in zip(curve.values, curve.steps, before))


def read_log(work_dir: Path) -> TrainingLog | None:
    """The training that a work dir has the logs of; None if it has none.

    Of a run that was resumed, what a later part did again replaces what the earlier one logged. A run
    that began anew in the same work dir replaces the former one.
    """
    parts: list[tuple[Path, list[dict]]] = []
    for file in sorted(work_dir.glob(f'*/{LOG}')):
        records = list(_placed(_records(file)))
        first = next((one['iter'] for one in records if 'loss' in one), None)
        if first is None:  # a test, or a run that stopped before its first line
            continue
        if not _resumes(file):
            parts = []
        parts = [(path, [one for one in old if one['iter'] < first]) for path, old in parts]
        parts.append((file.parent.parent, records))
    if not parts:
        return None
    records = [record for _, of_part in parts for record in of_part]
    training, lost = _curves(record for record in records if 'loss' in record)
    validation, more = _curves(record for record in records if 'loss' not in record)
    return TrainingLog(training, validation, tuple(path for path, _ in parts), lost + more)


def _records(file: Path) -> list[dict]:
    """The lines of a log; the last one may be cut off."""
    records = []
    for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _placed(records: Iterable[dict]) -> Iterable[dict]:
    """Records with the iteration they belong to: those of validations count epochs as ``step``."""
    iteration = 0
    for record in records:
        if 'loss' in record:
            iteration = int(record.get('iter', record.get('step', iteration)))
        yield {**record, 'iter': iteration}


def _curves(records: Iterable[dict]) -> tuple[dict[str, Curve], int]:
    points: dict[str, dict[int, float]] = {}
    lost = 0
    for record in records:
        for name, value in record.items():
            if name in ('iter', 'step', 'epoch') or isinstance(
                value, (str, list, dict, type(None))
            ):
                continue
            if isfinite(value):
                points.setdefault(name, {})[record['iter']] = float(value)
            else:
                lost += 1
    curves = {name: Curve(tuple(found), tuple(found.values())) for name, found in points.items()}
    return curves, lost


def _resumes(file: Path) -> bool:
    config = file.with_name('config.py')
    return config.is_file() and bool(_RESUMES.search(config.read_text(encoding='utf-8')))
