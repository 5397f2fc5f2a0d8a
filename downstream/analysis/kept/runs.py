"""Tests that have been run, and what they kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import DataError
from downstream.data.json_files import read_json
from downstream.detection.coco_evaluation import Detections, Rules

from . import detection, segmentation
from .segmentation import KeptCounts, LabelMaps

REPORT = 'metrics.json'
_AGAIN = 'python tools/test.py {config} {checkpoint}'
# Each: prepare(metrics) before a test, write(metrics, folder) -> facts for metrics.json after it.
_KEEPERS = {'detection': detection, 'segmentation': segmentation}


@dataclass(frozen=True)
class TestRun:
    """A test that has been run."""

    __test__ = False  # no class of tests, whatever pytest makes of its name

    folder: Path
    """With ``metrics.json`` and what was kept."""
    report: dict
    """The content of ``metrics.json``: ``task``, ``config``, ``checkpoint``, ``tta``, ``metrics``,
    ``data``."""
    classes: tuple[str, ...]
    """In the order of the model's labels."""

    @property
    def task(self) -> str:
        """``'detection'`` or ``'segmentation'``."""
        return self.report['task']

    @property
    def data(self) -> dict:
        """What was tested and how; empty in a file of an earlier version."""
        return self.report.get('data') or {}

    @property
    def command(self) -> str:
        """The command that runs the test again."""
        words = {key: self.report.get(key) or key.upper() for key in ('config', 'checkpoint')}
        return _AGAIN.format(**words)


def prepare(task: str, metrics: list) -> None:
    """Before a test: let its metrics hold on to what will be kept."""
    if task in _KEEPERS:
        _KEEPERS[task].prepare(metrics)


def write(task: str, metrics: Sequence, folder: Path) -> dict:
    """After a test, on the first process: keep what a report needs, where that is small.

    Args:
        task: ``'detection'`` or ``'segmentation'``.
        metrics: Those of the test.
        folder: Where ``metrics.json`` will be.

    Returns:
        What ``metrics.json`` says of it.
    """
    return _KEEPERS[task].write(metrics, folder) if task in _KEEPERS else {}


def find_tests(run: str | Path) -> list[TestRun]:
    """The test of a run.

    Args:
        run: A work dir, whose newest test it is, a folder with a ``metrics.json``, or that file.

    Raises:
        DataError: There is none, or it cannot be read; the message has the command that makes it.
    """
    path = Path(run)
    if path.is_file():
        return [_read_report(path)]
    if (path / REPORT).is_file():
        return [_read_report(path / REPORT)]
    if not path.is_dir():
        raise DataError(f'{path} does not exist: give a work dir, or a {REPORT} of tools/test.py.')
    found = sorted(path.glob(f'*/{REPORT}'), key=lambda file: (file.stat().st_mtime_ns, file.name))
    if not found:
        raise DataError(f'{path} has no {REPORT}; it is made by {_test_of(path)}')
    return [_read_report(found[-1])]


def truth_of(test: TestRun) -> dict:
    """The ground truth of a test of detection, a COCO dict.

    Raises:
        DataError: It was not recorded, is not there, or has changed since the test.
    """
    return detection.truth(test.folder, _data(test, 'detection', 'annotations'))


def predictions_of(test: TestRun) -> dict:
    """The detections of a test as a COCO dict.

    Returns:
        ``images`` (``id`` alone) and ``categories`` that were tested, and ``annotations``: ``id`` from 1,
        ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score`` and, if there
        are masks, ``segmentation``, run lengths with counts as text.

    Raises:
        DataError: They were not kept.
    """
    images, categories = _kept_detections(test)
    found = Detections.collected(images, categories, masks=False)
    annotations = [{'id': number, **one} for number, one in enumerate(found.as_dicts(), 1)]
    if detection.has_masks(images):
        codes = (code for image in images for code in image['masks'])
        for annotation, code in zip(annotations, codes):
            annotation['segmentation'] = {**code, 'counts': code['counts'].decode('ascii')}
    return {
        'images': [{'id': image['img_id']} for image in images],
        'categories': [{'id': i, 'name': name} for i, name in zip(categories, test.classes)],
        'annotations': annotations,
    }


def detections_of(test: TestRun, kind: str = 'bbox') -> Detections:
    """The same as arrays, for evaluation and for sets of hundreds of thousands.

    Args:
        test: A test of detection.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: They were not kept.
    """
    return detection.collected(*_kept_detections(test), kind)


def rules_of(test: TestRun, truth: Mapping) -> Rules:
    """What the figures of a test of detection count.

    Args:
        test: The test.
        truth: Its ground truth, of :func:`truth_of`.
    """
    data = _data(test, 'detection', 'categories')
    return Rules(
        images=[image['id'] for image in truth['images']],
        categories=data['categories'],
        thresholds=np.array(data['rules']['iou_thrs']),
        limits=data['rules']['proposal_nums'],
    )


def evaluation_of(
    test: TestRun, kind: str = 'bbox'
) -> tuple[dict, Detections, Rules, tuple[str, ...]]:
    """What an evaluation of a test of detection needs: ground truth, detections, rules, classes.

    Args:
        test: The test.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: Detections or annotations are not there, or contradict each other.
    """
    truth = truth_of(test)
    return truth, detections_of(test, kind), rules_of(test, truth), test.classes


def counts_of(test: TestRun) -> KeptCounts:
    """The pixel counts of a test of segmentation, image by image.

    Raises:
        DataError: They were not kept.
    """
    _data(test, 'segmentation', 'kept')
    return segmentation.read_counts(path_of(test, segmentation.FILE))


def predicted_masks_of(test: TestRun) -> LabelMaps:
    """The label maps that a test of segmentation predicted, in the order of its counts.

    Raises:
        DataError: They were not kept.
    """
    _data(test, 'segmentation', 'kept')
    return LabelMaps(path_of(test, segmentation.MAPS))


def annotated_masks_of(test: TestRun) -> LabelMaps:
    """The label maps that the predictions were compared with.

    Raises:
        DataError: They were not kept.
    """
    _data(test, 'segmentation', 'kept')
    return LabelMaps(path_of(test, segmentation.MAPS), annotated=True)


def path_of(test: TestRun, name: str) -> Path:
    """A file that a test kept.

    Raises:
        DataError: It did not; the message has the command that does.
    """
    path = test.folder / name
    if name not in _data(test, test.task, 'kept')['kept'] or not path.is_file():
        raise DataError(f'{test.folder} has no {name}; run the test again: {test.command}')
    return path


def _kept_detections(test: TestRun) -> tuple[list[dict], list]:
    _data(test, 'detection', 'kept')
    return detection.read(path_of(test, detection.FILE))


def _data(test: TestRun, task: str, key: str) -> dict:
    if test.task != task:
        raise DataError(f'{test.folder} is a test of {test.task}, not of {task}.')
    if key not in test.data:
        raise DataError(
            f'{test.folder / REPORT} does not say what was tested; run the test again: {test.command}'
        )
    return test.data


def _read_report(path: Path) -> TestRun:
    report = read_json(path)
    if (
        not isinstance(report, dict)
        or report.get('task') not in ('detection', 'segmentation')
        or not isinstance(report.get('metrics'), dict)
    ):
        raise DataError(f'{path} is not a {REPORT} of tools/test.py.')
    return TestRun(path.parent, report, tuple(_classes(report)))


def _classes(report: dict) -> Sequence[str]:
    if classes := (report.get('data') or {}).get('classes'):
        return classes
    metrics = report['metrics']
    of_kind = metrics.get('bbox') or metrics.get('segm') or metrics
    return list(of_kind.get('per_class') or ())


def _test_of(work_dir: Path) -> str:
    """The command that tests what a work dir holds."""
    configs = sorted(work_dir.glob('*.py'))
    record = work_dir / 'last_checkpoint'
    checkpoint = Path(record.read_text().strip()).name if record.is_file() else 'CHECKPOINT'
    return _AGAIN.format(
        config=configs[0] if configs else 'CONFIG', checkpoint=work_dir / checkpoint
    )
