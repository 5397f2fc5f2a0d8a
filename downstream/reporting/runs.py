"""A run as a report sees it: its test, its training, its config and its recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from backbones.errors import DataError
from downstream.analysis import detection, kept, segmentation
from downstream.analysis.detection import DetectionAnalysis
from downstream.analysis.kept import TestRun, find_tests
from downstream.analysis.segmentation import Segmentation
from downstream.zoo.table import Row

from .drawn import DetectionPictures
from .recipes import read_recipe, recipe_of, row_of
from .scalars import LOG, TrainingLog, read_log


@dataclass(frozen=True)
class Run:
    """A run that is reported.

    Attributes:
        name: By which the page calls it; no two runs have the same.
        source: What the user named.
        test: Its test; None if there is none.
        untested: Why there is none.
        work_dir: Of its training; None if that is not known.
    """

    name: str
    source: Path
    test: TestRun | None
    untested: str
    work_dir: Path | None

    @cached_property
    def log(self) -> TrainingLog | None:
        """What its training logged."""
        return read_log(self.work_dir) if self.work_dir else None

    @cached_property
    def config(self) -> Config | None:
        """The complete config of its training, else of its test."""
        file = self.config_file
        return read_recipe(file) if file else None

    @cached_property
    def config_file(self) -> Path | None:
        """The file of :attr:`config`."""
        folders = [*(self.log.parts[::-1] if self.log else ())]
        if self.test:
            folders.append(self.test.folder)
        files = [folder / 'vis_data' / 'config.py' for folder in folders]
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def recipe(self) -> Path | None:
        """The recipe of this suite that it is, or is based on."""
        named = [self.test.report['config']] if self.test and self.test.report.get('config') else []
        own = sorted(self.work_dir.glob('*.py')) if self.work_dir else []
        found = (recipe_of(name) for name in [*named, *own, *(one.stem for one in own)])
        return next((one for one in found if one), None)

    @cached_property
    def row(self) -> Row | None:
        """The papers' row that it is, or is based on."""
        return row_of(self.recipe)

    @cached_property
    def kinds(self) -> dict[str, DetectionAnalysis | str]:
        """What its detections mean, for ``'box'`` and ``'mask'``; a text says why that is not known."""
        if self.test is None or self.task != 'detection':
            return {}
        words = {'bbox': 'box', 'segm': 'mask'}
        return {
            words[kind]: _or_reason(self.test, kind)
            for kind in self.test.report['metrics']
            if kind in words
        }

    @cached_property
    def pictures(self) -> DetectionPictures | str:
        """Of its detections; a text says why there are none."""
        if self.test is None:
            return self.untested
        try:
            return DetectionPictures(self.test)
        except DataError as error:
            return str(error)

    @property
    def best_score(self) -> float:
        """The best score threshold of its boxes for all classes together; 0 where there is none."""
        boxes = self.kinds.get('box') or self.kinds.get('mask')
        return boxes.threshold.score or 0.0 if isinstance(boxes, DetectionAnalysis) else 0.0

    @cached_property
    def regions(self) -> Segmentation | str | None:
        """What its label maps mean; a text says why that is not known, None that it has none."""
        if self.test is None or self.task != 'segmentation':
            return None
        try:
            return segmentation.analyse(kept.counts_of(self.test))
        except DataError as error:
            return str(error)

    @property
    def task(self) -> str | None:
        """``'detection'``, ``'segmentation'``, or None where nothing says."""
        if self.test:
            return self.test.task
        scope = (self.config or {}).get('default_scope')
        return {'mmdet': 'detection', 'mmseg': 'segmentation'}.get(str(scope))


def read_runs(sources: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Run]:
    """The runs to report.

    Args:
        sources: Each a work dir, a folder with a ``metrics.json``, or that file.
        names: For each; None: what tells their paths apart.

    Raises:
        DataError: There is neither a test nor a training of one, a run is named twice, or the runs are of
            both tasks.
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise DataError('no run was named; give a work dir, or a metrics.json of tools/test.py.')
    double = next((path for path in paths if paths.count(path) > 1), None)
    if double:
        raise DataError(f'{double} was named twice; name each run once.')
    runs = [_read(path, name) for path, name in zip(paths, names or short_names(paths))]
    tasks = {run.task: run for run in runs if run.task}
    if len(tasks) > 1:
        first, second = tasks.values()
        raise DataError(
            f'{first.source} is a run of {first.task}, {second.source} one of {second.task}; make a page '
            'for each task.'
        )
    return runs


def _or_reason(test: TestRun, kind: str) -> DetectionAnalysis | str:
    try:
        return detection.analyse(test, kind)
    except DataError as error:
        return str(error)


def _read(path: Path, name: str) -> Run:
    test, untested = None, ''
    try:
        test = find_tests(path)[0]
    except DataError as error:
        untested = str(error)
        if not path.is_dir() or not any(path.glob(f'*/{LOG}')):
            raise
    return Run(name, path, test, untested, _work_dir(path, test))


def _work_dir(path: Path, test: TestRun | None) -> Path | None:
    """Where the training of a run logged: the run's folder, or that of the tested checkpoint."""
    folders = [path if path.is_dir() else path.parent]
    if test:
        folders.append(test.folder.parent)
        if checkpoint := test.report.get('checkpoint'):
            folders.append(Path(checkpoint).parent)
    return next((folder for folder in folders if any(folder.glob(f'*/{LOG}'))), None)


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last folder, and as much before it as tells them apart."""
    parts = [_meaningful(path) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _meaningful(path: Path) -> tuple[str, ...]:
    whole = path.resolve()
    return (whole.parent if whole.suffix == '.json' else whole).parts[1:] or (str(path),)


def environment_of(run: Run) -> dict[str, str]:
    """What a run ran on, by name: that of its test, else what its training logged."""
    recorded = run.test.data.get('environment') if run.test else None
    if recorded:
        versions = recorded.get('versions') or {}
        plain = {key: value for key, value in recorded.items() if key != 'versions'}
        return {key: str(value) for key, value in {**plain, **versions}.items()}
    return _logged_environment(run.log.parts[-1]) if run.log else {}


def _logged_environment(folder: Path) -> dict[str, str]:
    """The block of versions at the top of a training's log."""
    found: dict[str, str] = {}
    for log in sorted(folder.glob('*.log'))[-1:]:
        for line in log.read_text(encoding='utf-8', errors='replace').splitlines():
            if ' - Config:' in line:
                break
            key, colon, value = line.strip().partition(': ')
            if line.startswith('    ') and colon and 'compiling' not in key and key[0] != '-':
                found[key] = value
    return found


def seed_of(run: Run) -> int | None:
    """The seed of a training; None where it is not known."""
    if not run.log:
        return None
    seed = _logged_environment(run.log.parts[0]).get('seed')
    return json.loads(seed) if seed and seed.isdigit() else None
