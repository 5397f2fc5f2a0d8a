"""What the runs of a comparison measured: read from metrics.json and the logs, joined by backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev

from scipy.stats import t as student

from .by_images import interval_over_images
from .plan import Candidate, Plan
from .state import Run

CONFIDENCE = 0.95
# Name of a figure in tables -> where metrics.json has it, and what makes it percent.
_FIGURES: dict[str, dict[str, tuple[str, str | None, float]]] = {
    'detection': {'box AP': ('bbox', 'AP', 100.0), 'mask AP': ('segm', 'AP', 100.0)},
    'segmentation': {'mIoU': ('mIoU', None, 1.0)},
}


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        values: One for each seed that has it.
        mean: Their mean; None without values.
        deviation: Their standard deviation (n - 1); None below two values.
        difference: Of the means, to the first backbone; None for itself and where one is missing.
        low, high: Ends of the difference's 95 % interval: over seeds (Welch's t), or over images where
            both backbones have one run. None where neither is possible.
    """

    values: tuple[float, ...]
    mean: float | None = None
    deviation: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A backbone in the table.

    Attributes:
        backbone: Its name.
        parameters, backbone_parameters, gmacs: As in :class:`.plan.Candidate`.
        step_seconds: Median time of a training step.
        images_per_second: Of the test, all processes together.
        peak_gib: Largest memory of a GPU in training; None on a CPU.
        runs: How many runs it has been given.
        done: How many of them are done.
        figures: By their names in the table.
    """

    backbone: str
    parameters: int
    backbone_parameters: int
    gmacs: float | None
    step_seconds: float | None
    images_per_second: float | None
    peak_gib: float | None
    runs: int
    done: int
    figures: dict[str, Spread]

    def as_dict(self) -> dict:
        """As JSON has it."""
        return asdict(self)


def rows(made: Plan) -> list[Row]:
    """A row for each backbone, in the order of the command line."""
    found = []
    first: dict[str, Spread] = {}
    done = [[run for run in made.runs_of(candidate) if run.done] for candidate in made.candidates]
    for number, candidate in enumerate(made.candidates):
        row = _row(candidate, made, done[number], first)
        if number and len(done[0]) == len(done[number]) == 1:
            row = _with_images(row, done[0][0], done[number][0])
        first = first if number else row.figures
        found.append(row)
    return found


def _with_images(row: Row, first: Run, own: Run) -> Row:
    """A row of single runs, with intervals over the images of the test."""
    figures = {}
    for name, figure in row.figures.items():
        if figure.difference is not None:
            low, high = interval_over_images(first, own, name)
            figure = replace(figure, low=low, high=high)
        figures[name] = figure
    return replace(row, figures=figures)


def _row(candidate: Candidate, made: Plan, done: Sequence[Run], first: Mapping[str, Spread]) -> Row:
    measured = [measured_figures(run) for run in done]
    # A detector of boxes alone has no masks.
    reported = first or {name for one in measured for name in one}
    names = _FIGURES[made.task]
    collected = {
        name: [value for m in measured if (value := m.get(name)) is not None] for name in names
    }
    figures = {
        name: spread(values, first[name].values if first else None)
        for name, values in collected.items()
        if name in reported
    }
    logs = [_Logs(run) for run in done]
    return Row(
        candidate.name,
        candidate.parameters,
        candidate.backbone_parameters,
        candidate.gmacs,
        _median([log.step_seconds for log in logs]),
        _median([log.images_per_second for log in logs]),
        max((log.peak_gib for log in logs if log.peak_gib is not None), default=None),
        len(made.runs_of(candidate)),
        len(done),
        figures,
    )


def spread(values: Sequence[float], reference: Sequence[float] | None = None) -> Spread:
    """A figure over seeds, and its difference to that of another backbone.

    Args:
        values: One for each seed.
        reference: Those of the other one; None: there is none to compare with.
    """
    average = mean(values) if values else None
    deviation = stdev(values) if len(values) > 1 else None
    result = Spread(tuple(values), average, deviation)
    if not values or not reference:
        return result
    difference = mean(values) - mean(reference)
    half = _half_width(values, reference)
    low, high = (None, None) if half is None else (difference - half, difference + half)
    return Spread(tuple(values), average, deviation, difference, low, high)


def _half_width(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Half the interval of a difference of means whose variances differ (Welch 1947)."""
    if len(a) < 2 or len(b) < 2:
        return None
    parts = [stdev(values) ** 2 / len(values) for values in (a, b)]
    total = sum(parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b)))
    return float(student.ppf((1 + CONFIDENCE) / 2, freedom)) * total**0.5


def measured_figures(run: Run) -> dict[str, float | None]:
    """The figures of a run's test that are compared, in percent; None where a test could not tell."""
    report = json.loads(run.report.read_text())
    metrics = report['metrics']
    found: dict[str, float | None] = {}
    for name, (key, inner, factor) in _FIGURES[report['task']].items():
        value = metrics.get(key)
        value = value.get(inner) if isinstance(value, Mapping) else value
        if key in metrics:
            found[name] = None if value is None else factor * value
    return found


def short_figures(run: Run) -> str:
    """The figures of a run in a few words."""
    found = measured_figures(run).items()
    return ', '.join(f'{name} {"-" if value is None else f"{value:.2f}"}' for name, value in found)


class _Logs:
    """Times and memory that the logs of a run have.

    Args:
        run: It has been tested.
    """

    def __init__(self, run: Run) -> None:
        config = run.identity['config']
        trained = [line for path in _scalars(run.folder) for line in _lines(path) if 'loss' in line]
        times = [line['time'] for line in trained if 'time' in line]
        # The first interval has what is done once: compilers, caches, workers.
        self.step_seconds = _median(times[1:] or times)
        memory = [line['memory'] for line in trained if line.get('memory')]
        self.peak_gib = max(memory) / 1024 if memory else None
        test = run.report.parent
        tested = _lines(test / f'{test.name}.json')
        seconds = _median([line['time'] for line in tested if 'time' in line])
        batch = config.get('test_dataloader.batch_size', 1) * run.identity['processes']
        self.images_per_second = batch / seconds if seconds else None


def _scalars(folder: Path) -> list[Path]:
    return sorted(folder.glob('*/vis_data/scalars.json'))


def _lines(path: Path) -> Iterator[dict]:
    text = path.read_text() if path.is_file() else ''
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # cut off by a kill, or no log
            continue
        if isinstance(content, dict):
            yield content


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
