"""Testing a checkpoint: figures on the screen and as JSON, predictions and pictures on request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor

from downstream.analysis import kept
from downstream.atomic import require_folder
from downstream.data.checks.datasets import check_datasets
from downstream.distributed.gather import DataOnlyMetric
from downstream.distributed.processes import is_first_process
from downstream.distributed.wrapping import trained_part
from downstream.exporting.files import is_exported
from downstream.running.checkpoint.files import raise_on_full_disk, write_text

from .config import TestOptions, task_of, testing_config
from .gpu_memory import TESTING, explain_full_gpu
from .tested import tested
from .train import build_runner


def evaluate(options: TestOptions, show_report: bool = True) -> dict:
    """Test ``options.checkpoint`` on the test set of the config; print the report if asked to.

    Returns:
        The report that also goes to ``<work dir>/<time>/metrics.json``: ``task``, ``config``,
        ``checkpoint``, ``tta``, ``metrics``, which are those of
        :class:`~downstream.detection.CocoInstanceMetric` (fractions) or
        :class:`~downstream.segmentation.SegmentationMetric` (percent), and ``data``, what was tested and
        what was kept beside the report: :func:`.tested.tested`, :func:`downstream.analysis.kept.write`.

    Raises:
        UserError: Config, data or checkpoint cannot be used, or the disk is full.
    """
    cfg = testing_config(options)
    with raise_on_full_disk(cfg.work_dir, 'make room and run the test again.'):
        return _evaluate(cfg, options, show_report)


def _evaluate(cfg: Config, options: TestOptions, show_report: bool) -> dict:
    require_folder(Path(cfg.work_dir))
    if is_first_process():
        check_datasets(cfg, ('test',))
    runner = build_runner(cfg)
    if is_exported(options.checkpoint):
        _require_classes(runner, options.checkpoint)
    if options.out and options.out.endswith(('.pkl', '.pickle')):
        runner.test_evaluator.metrics.append(_dump(task_of(cfg), options.out))
    kept.prepare(task_of(cfg), runner.test_evaluator.metrics)
    begin = perf_counter()
    with explain_full_gpu(TESTING):
        flat = runner.test()
    seconds = perf_counter() - begin
    report: dict = {
        'task': task_of(cfg),
        'config': options.config,
        'checkpoint': options.checkpoint,
        'tta': options.tta,
        'metrics': _collected(runner.test_evaluator.metrics) or _numbers(flat),
    }
    if is_main_process():
        path = Path(runner.log_dir) / kept.REPORT
        report['data'] = tested(cfg, options, runner, seconds)
        report['data'] |= kept.write(report['task'], runner.test_evaluator.metrics, path.parent)
        write_json(path, report)
        if show_report:
            print_report(report)
            print(f'Metrics: {path}')
    return report


def _require_classes(runner: Runner, path: str) -> None:
    from downstream.exporting.models import require_classes

    dataset = runner.test_loop.dataloader.dataset
    names = getattr(dataset, 'metainfo', {}).get('classes') or ()
    exported: Any = trained_part(runner.model)
    require_classes(exported.file.facts, names, path)


def write_json(path: Path, content: dict) -> None:
    """Write ``content`` atomically."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def print_report(report: dict) -> None:
    """The metrics of :func:`evaluate` as tables."""
    metrics = report['metrics']
    console = Console(width=100)
    if report['task'] == 'detection' and 'bbox' in metrics:
        names = [name for name in metrics['bbox'] if name != 'per_class']
        table = Table('AP x 100', *names)
        for kind, row in metrics.items():
            table.add_row(kind, *(_percent(row[name], 100) for name in names))
        console.print(table)
        per_class = {
            name: [_percent(row['per_class'][name], 100) for row in metrics.values()]
            for name in metrics['bbox']['per_class']
        }
        columns = [f'{kind} AP' for kind in metrics]
    elif 'per_class' in metrics:
        console.print('  '.join(f'{name} {metrics[name]:.2f}' for name in ('mIoU', 'aAcc', 'mAcc')))
        per_class = {
            name: [_percent(row['IoU']), _percent(row['Acc'])]
            for name, row in metrics['per_class'].items()
        }
        columns = ['IoU', 'Acc']
    else:
        console.print_json(data=metrics)
        return
    table = Table('class', *columns)
    for name, figures in per_class.items():
        table.add_row(name, *figures)
    console.print(table)


def _percent(value: float | None, factor: float = 1) -> str:
    return '-' if value is None else f'{factor * value:.2f}'


def _collected(metrics: list) -> dict:
    collected: dict = {}
    for metric in metrics:
        collected |= getattr(metric, 'report', {})
    return collected


def _numbers(figures: dict) -> dict:
    """Figures of any metric as JSON has them: those of mmseg's are of NumPy, others' may be tensors."""
    return {
        key: value.tolist() if isinstance(value, (np.generic, np.ndarray, Tensor)) else value
        for key, value in figures.items()
    }


def _dump(task: str, path: str) -> DumpResults:
    if task != 'detection':
        return type('DumpResults', (DataOnlyMetric, DumpResults), {})(out_file_path=path)
    from mmdet.evaluation import DumpDetResults

    class DumpDetections(DataOnlyMetric, DumpDetResults):
        """mmdet's, also for masks that are run lengths already, as those of tiles are."""

        def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
            for sample in data_samples:
                coded = sample['pred_instances'].get('masks')
                if not isinstance(coded, list):
                    super().process(data_batch, [sample])
                    continue
                instances = {k: v for k, v in sample['pred_instances'].items() if k != 'masks'}
                super().process(data_batch, [{**sample, 'pred_instances': instances}])
                self.results[-1]['pred_instances']['masks'] = coded

    return DumpDetections(out_file_path=path)
