"""The steps from ResNet to ConvNeXt: published figures, what is proven of them, and our own.

``published.json`` holds what the paper printed. ``measured.json`` holds our own figures, by
``tools/zoo.py roadmap``; it does not exist before there are any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

from torch import nn

from backbones import ConvNeXtIsotropic, Roadmap
from backbones.convnext.classifier import IsotropicClassifier
from backbones.errors import ConfigError, DataError, WeightsError
from backbones.roadmap.classifier import RoadmapClassifier
from backbones.roadmap.names import name_of
from backbones.roadmap.steps import STEPS
from backbones.uninitialised import on_meta
from backbones.weights.load import load_state
from downstream.contract import gmacs
from downstream.running.checkpoint.files import write_text

from ..figures import measured_figures
from ..released import released_tensors

_PUBLISHED = Path(__file__).with_name('published.json')
MEASURED = Path(__file__).with_name('measured.json')
_IMAGE = (3, 224, 224)
_CLASSES = 1000
# The ends of the roadmap are networks with released files.
_RELEASED = {
    ('resnet', 'tiny'): 'resnet-50_in1k',
    ('separate-downsampling', 'tiny'): 'convnext-tiny_in1k',
    ('separate-downsampling', 'base'): 'convnext-base_in1k',
}


@dataclass(frozen=True)
class Step:
    """A row of the paper's tables 10 and 11.

    Attributes:
        step: One of :data:`backbones.roadmap.steps.STEPS`.
        regime: ``'tiny'`` or ``'base'``.
        top1: On ImageNet-1k, percent; in the tiny regime the mean of three seeds.
        spread: Its standard deviation.
        gflops: Multiply-adds as printed, billions.
        computed: Those of convolutions and classifier, as the text describes them.
        kernel: Where it is not the step's: a kernel that was tried and not taken.
        slip: Why the print differs.
    """

    step: str
    regime: str
    top1: float
    spread: float | None
    gflops: float
    computed: float
    kernel: int | None = None
    slip: str = ''

    @property
    def name(self) -> str:
        """The backbone's, with the kernel where that is another."""
        return name_of(self.step, self.regime) + (f' kernel={self.kernel}' if self.kernel else '')

    def classifier(self) -> RoadmapClassifier:
        """The network with ImageNet's classes, on the meta device."""
        with on_meta():
            backbone = Roadmap(self.step, self.regime, kernel=self.kernel)
            return RoadmapClassifier(backbone, _CLASSES)


@cache
def published() -> dict:
    """Everything in ``published.json``."""
    return json.loads(_PUBLISHED.read_text())


@cache
def steps(regime: str) -> tuple[Step, ...]:
    """The rows of a regime in the paper's order, with kernels that were not taken."""
    return tuple(Step(**row) for row in published()['steps'] if row['regime'] == regime)


def check() -> Iterator[tuple[str, dict[str, str]]]:
    """Name and results of each check of every step and every isotropic network.

    The results are those of :func:`downstream.zoo.checks.check_row`.
    """
    for step in (*steps('tiny'), *steps('base')):
        model = step.classifier()
        results = {'GMACs': _multiply_adds(model, step)}
        released = _RELEASED.get((step.step, step.regime))
        if released:
            results['weights'] = _loads(model, released)
        yield step.name, results
    for row in published()['isotropic']:
        with on_meta():
            backbone = ConvNeXtIsotropic(row['size'])
            network = IsotropicClassifier(backbone, _CLASSES)
        yield (
            f'convnext-iso-{row["size"]}',
            {
                'parameters': _rounds_to(
                    sum(p.numel() for p in network.parameters()) / 1e6, row['params']
                ),
                'GMACs': _rounds_to(gmacs(network, _IMAGE), row['gflops']),
                'weights': _loads(network, f'convnext-iso-{row["size"]}_in1k-ema'),
            },
        )


def _multiply_adds(model: nn.Module, step: Step) -> str:
    found = gmacs(model, _IMAGE)
    result = _rounds_to(found, step.computed)
    if not result.startswith('FAIL') and not step.slip:
        printed = _rounds_to(found, step.gflops)
        result = printed if printed.startswith('FAIL') else result
    return result


def _rounds_to(found: float, figure: float) -> str:
    """Whether ``found`` rounds to ``figure``, which has as many decimals as were printed."""
    decimals = len(str(figure).partition('.')[2])
    if round(found, decimals) != figure:
        return f'FAIL {found:.4f}, not {figure}'
    return f'{found:.3f}'


def _loads(model: nn.Module, weights: str) -> str:
    """Whether the tensors of a released file, as another library has them, are those of the network."""
    with on_meta():
        own = {k: v for k, v in model.state_dict().items() if k.startswith(('norm.', 'head.'))}
    try:
        report = load_state(model, {**released_tensors(weights), **own}, weights)
    except WeightsError as error:
        return f'FAIL {" ".join(str(error).split())}'
    return f'{weights}, {len(report.loaded)} tensors'


def measured() -> dict | None:
    """Our own figures; None before there are any.

    ``regime``, and by task ``config``, ``trained`` (epochs or steps), ``date`` and ``values``: step -> a
    figure for each seed, percent.
    """
    return json.loads(MEASURED.read_text()) if MEASURED.is_file() else None


def collect(folders: Sequence[str], regime: str = 'atto') -> dict:
    """The figures of comparisons of all steps, made by ``tools/compare.py``.

    Args:
        folders: Folder of a comparison each, one for each task.
        regime: Of the steps.

    Raises:
        ConfigError: Two comparisons are of the same task.
        DataError: A step has no result, or they were not trained alike; the message names what differs.
    """
    found: dict = {'regime': regime}
    for folder in map(Path, folders):
        values, reports, last = {}, [], 0.0
        for step in STEPS:
            name = name_of(step, regime)
            runs = sorted((folder / name).glob('seed*'), key=lambda path: path.name)
            newest = [max(run.rglob('metrics.json'), key=_age, default=None) for run in runs]
            if not newest or None in newest:
                raise DataError(
                    f'{folder} has no metrics.json of every seed of {name}; let tools/compare.py '
                    'finish it.'
                )
            results = [_figure(path) for path in newest if path]
            values[step] = [figure for _, figure in results]
            reports += [report for report, _ in results]
            last = max(last, *(_age(path) for path in newest if path))
        tasks = {report['task'] for report in reports}
        if len(tasks) > 1 or tasks & set(found):
            raise ConfigError(f'{folder}: give one comparison of each task.')
        config = Path(str(reports[0].get('config', ''))).stem
        budgets = {_budget(report) for report in reports}
        if len(budgets) > 1:
            raise DataError(f'{folder}: steps were trained for {" and ".join(sorted(budgets))}.')
        found[tasks.pop()] = {
            'config': config,
            'trained': budgets.pop(),
            'date': f'{datetime.fromtimestamp(last, timezone.utc):%Y-%m-%d}',
            'values': values,
        }
    return found


def _budget(report: dict) -> str:
    """How long the tested checkpoint was trained, by the name that mmengine gives it."""
    name = Path(str(report.get('checkpoint', ''))).stem
    kind, _, count = name.partition('_')
    words = {'epoch': 'epochs', 'iter': 'steps'}
    if kind not in words or not count.isdigit():
        raise DataError(f'the checkpoint {name!r} does not tell how long it was trained.')
    return f'{count} {words[kind]}'


def record(folders: Sequence[str], regime: str = 'atto') -> None:
    """Write the figures of :func:`collect` into ``measured.json``."""
    write_text(MEASURED, json.dumps(collect(folders, regime), indent=1) + '\n')


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _figure(path: Path) -> tuple[dict, float]:
    """A ``metrics.json`` and its box AP or mIoU, percent."""
    try:
        report = json.loads(path.read_text())
        name = 'mIoU' if report['task'] == 'segmentation' else 'box AP'
        figure = measured_figures(report)[name]
        if figure is None:
            raise ValueError(f'its {name} is unknown')
        return report, float(figure)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path} is not a metrics.json of tools/test.py: {error}') from error
