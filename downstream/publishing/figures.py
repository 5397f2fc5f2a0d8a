"""The figures of a published checkpoint: those of a kept test of exactly this file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from backbones.errors import ConfigError
from backbones.weights.download import sha256
from downstream.analysis.kept import REPORT, TestRun, find_tests
from downstream.running.config import TestOptions, testing_config
from downstream.running.tested import protocol

_KINDS = {
    'bbox': ('box', 'object-detection', 'Object detection'),
    'segm': ('mask', 'image-segmentation', 'Instance segmentation'),
}
_OF_SEGMENTATION = ('mIoU', 'aAcc', 'mAcc')


@dataclass(frozen=True)
class Figures:
    """Figures of one kind, in percent.

    Attributes:
        task: As the Hugging Face Hub names it.
        title: The same for readers.
        values: Name -> value, None where the data have nothing to measure it on.
        per_class: Class -> figure -> value.
    """

    task: str
    title: str
    values: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]


def test_of(work_dir: Path, config: Path, checkpoint: Path) -> TestRun | None:
    """The newest test of exactly this checkpoint, by its SHA-256; None if there is none.

    Args:
        work_dir: Of the run.
        config: The config that is published.
        checkpoint: The checkpoint that is published.

    Raises:
        ConfigError: It was tested by another protocol than that of the config.
        DataError: The ``metrics.json`` of a test cannot be read.
    """
    digest = sha256(checkpoint)
    reports = sorted(work_dir.glob(f'*/{REPORT}'), key=lambda path: path.stat().st_mtime_ns)
    tests = [test for path in reversed(reports) for test in find_tests(path)]
    test = next((test for test in tests if test.data.get('weights') == digest), None)
    command = f'python tools/test.py {config} {checkpoint} --work-dir {work_dir}'
    if test is None:
        others = (
            ' (those in it are of other checkpoints, or of an earlier version)' if tests else ''
        )
        print_log(
            f'{work_dir} has no test of {checkpoint.name}{others}: the card will have no figures. '
            f'They come from: {command}',
            'current',
            logging.WARNING,
        )
        return None
    _require_protocol(test, config, checkpoint, command)
    return test


def _require_protocol(test: TestRun, config: Path, checkpoint: Path, command: str) -> None:
    """ConfigError unless the published config tests as ``test`` did."""
    recorded = test.data['protocol']
    views = {key: recorded[key] for key in ('tta', 'tile', 'overlap')}
    options = TestOptions(str(config), checkpoint=str(checkpoint), **views)
    now = protocol(testing_config(options), options)
    other = [key for key in recorded if recorded[key] != now.get(key)]
    if other:
        raise ConfigError(
            f'{test.folder / REPORT} was measured with other settings than those of {config} '
            f'({", ".join(other)} of the test), so nobody could repeat it; test again: {command}'
        )


def figures_of(test: TestRun) -> list[Figures]:
    """What a test measured."""
    metrics = test.report['metrics']
    if test.task == 'segmentation':
        per_class = metrics.get('per_class') or {}
        values = {name: metrics[name] for name in _OF_SEGMENTATION if name in metrics}
        return [Figures('image-segmentation', 'Semantic segmentation', values, per_class)]
    return [
        Figures(
            task,
            title,
            {f'{word} {k}': _percent(v) for k, v in metrics[kind].items() if k != 'per_class'},
            {
                name: {f'{word} AP': _percent(value)}
                for name, value in (metrics[kind].get('per_class') or {}).items()
            },
        )
        for kind, (word, task, title) in _KINDS.items()
        if kind in metrics
    ]


def test_words(test: TestRun) -> Sequence[str]:
    """The options of ``tools/test.py`` that a test was run with."""
    recorded = test.data['protocol']
    words = ['--tta'] if recorded['tta'] else []
    for key in ('tile', 'overlap'):
        if recorded[key] is not None:
            words += [f'--{key}', str(recorded[key])]
    return words


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
