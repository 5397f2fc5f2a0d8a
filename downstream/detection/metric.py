"""COCO box and mask average precision, at full precision and per class."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import CocoMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS

from backbones.errors import ConfigError, DataError
from downstream.distributed.gather import DataOnlyMetric
from downstream.quiet import without_coco_output

from .coco_evaluation import (
    Detections,
    HotcocoTruth,
    Rules,
    figures_of,
    mask_areas,
    with_hotcoco,
    with_pycocotools,
)
from .completed import read_truth

_BACKENDS = ('hotcoco', 'pycocotools')
_KINDS = ('bbox', 'segm')
# COCO's own limits of detections per image; mmdet's default is (100, 300, 1000).
_MAX_DETECTIONS = (1, 10, 100)
# The keys under which mmdet reports the figures, for hooks such as save_best.
_MMDET_KEYS = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APs': 'mAP_s',
    'APm': 'mAP_m',
    'APl': 'mAP_l',
}


@METRICS.register_module()
class CocoInstanceMetric(DataOnlyMetric, CocoMetric):
    """mmdet's ``CocoMetric`` without its rounding to three digits.

    After an evaluation :attr:`report` holds, for ``bbox`` and ``segm``, AP, AP50, AP75, APs, APm,
    APl, AR as fractions and ``per_class``; a figure that no object supports is None.

    Args:
        ann_file: COCO annotations. None: the ground truth of the data samples.
        metric: ``'bbox'``, ``'segm'`` or a list of both.
        classwise: Also return AP per class, as ``<kind>_<class>_precision``, for curves and hooks.
            :attr:`report` has it in any case.
        proposal_nums: Limits of detections per image, ascending. Figures are those at the last one.
        iou_thrs: IoU thresholds in place of 0.50, 0.55, ..., 0.95. AP50 and AP75 are None without
            0.5 and 0.75 among them.
        format_only: Write the detections and compute nothing, e.g. for a test server.
        outfile_prefix: Write the detections to ``<prefix>.bbox.json`` and ``<prefix>.segm.json``, in
            COCO's result format.
        save_dir: The same with the prefix ``<save_dir>/detections``.
        backend: ``'hotcoco'``, which computes the figures of pycocotools many times as fast,
            ``'pycocotools'``, or ``'auto'``: the first that is installed.
        kwargs: ``prefix``, ``collect_device``, ``backend_args``, ``sort_categories`` of ``CocoMetric``.

    Raises:
        ConfigError: An option has an impossible value, is not supported, or is not installed.
    """

    # process stores arrays, run-length codes and numbers.
    results_on_cpu = True
    # Of CocoMetric: lists of ids, None until the annotations are known.
    cat_ids: Any
    img_ids: Any

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        *,
        classwise: bool = False,
        proposal_nums: Sequence[int] = _MAX_DETECTIONS,
        iou_thrs: float | Sequence[float] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        save_dir: str | None = None,
        backend: str = 'auto',
        **kwargs,
    ) -> None:
        kinds = [metric] if isinstance(metric, str) else list(metric)
        _refuse_unsupported(kinds, kwargs)
        sort_categories = kwargs.pop('sort_categories', False)
        super().__init__(None, kinds, **kwargs)
        if ann_file is not None:
            self._coco_api = read_truth(ann_file, self.backend_args, sort_categories)
        self.classwise = classwise
        self.proposal_nums = _limits(proposal_nums)
        self.iou_thrs = _thresholds(iou_thrs)
        self.outfile_prefix = outfile_prefix
        self.save_dir = save_dir
        self.format_only = format_only
        if format_only and not (save_dir or outfile_prefix):
            raise ConfigError(
                'format_only=True writes the detections, but no place is given: add --out FOLDER '
                '(save_dir) or outfile_prefix.'
            )
        self.backend = _installed(backend)
        self.report: dict[str, dict] = {}
        self.ann_file = ann_file
        # What compute_metrics was given, on the first process, for a test that keeps its detections.
        self.keep = False
        self.kept: Sequence[dict] = ()
        self._fast_truth: HotcocoTruth | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the detections of a batch.

        Raises:
            DataError: An image is not listed in ``ann_file``.
        """
        for sample in data_samples if self._coco_api is not None else ():
            if sample['img_id'] not in self._coco_api.imgs:
                raise DataError(
                    f'image {sample["img_id"]} ({sample.get("img_path", "?")}) is not in the annotations '
                    "of the evaluator; give the evaluator and its data loader the same 'ann_file'."
                )
        first = len(self.results)
        super().process(data_batch, data_samples)
        for _, prediction in self.results[first:]:
            if 'masks' in prediction:
                # Here every process counts its own, and beside a network this takes no time.
                prediction['mask_areas'] = mask_areas(prediction['masks'])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The figures of ``results``, pairs of ground truth and prediction, one for each image.

        Returns:
            ``<kind>_mAP``, ``<kind>_mAP_50``, ...; nothing with ``format_only``.

        Raises:
            DataError: There are no results.
            ConfigError: Masks are to be evaluated, and the model predicts none.
        """
        if not results:
            raise DataError('no image was evaluated: the data set of the evaluator is empty.')
        truth, predictions = zip(*results)
        if 'segm' in self.metrics and 'masks' not in predictions[0]:
            raise ConfigError(
                "metric='segm' evaluates masks, but the model predicts none; set metric='bbox'."
            )
        self._set_truth(truth)
        if self.keep and not self.format_only:
            self.kept = predictions
        written = [self.results2json(predictions, prefix) for prefix in self._prefixes()]
        if self.format_only:
            print_log(f'Detections: {", ".join(sorted(set(written[-1].values())))}', 'current')
            return {}
        flat: dict[str, float] = {}
        for kind in self.metrics:
            self.report[kind] = self._evaluate(kind, predictions)
            flat |= self._flat(kind, self.report[kind])
        return flat

    @property
    def truth(self) -> dict:
        """The annotations that detections are compared with, a COCO dict."""
        return self._coco_api.dataset

    def _prefixes(self) -> list[str]:
        """Where the detections are written to stay, with folders that exist."""
        prefixes = [self.outfile_prefix] if self.outfile_prefix else []
        if self.save_dir:
            prefixes.append(str(Path(self.save_dir) / 'detections'))
        for prefix in prefixes:
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        return prefixes

    def _set_truth(self, truth: Sequence[dict]) -> None:
        if self._coco_api is None:
            with without_coco_output(), tempfile.TemporaryDirectory() as aside:
                self._coco_api = COCO(self.gt_to_coco_json(truth, f'{aside}/truth'))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()

    def _flat(self, kind: str, report: dict) -> dict[str, float]:
        flat = {f'{kind}_{key}': _number(report[name]) for name, key in _MMDET_KEYS.items()}
        if self.classwise:
            flat |= {f'{kind}_{n}_precision': _number(v) for n, v in report['per_class'].items()}
        return flat

    def _evaluate(self, kind: str, predictions: Sequence[dict]) -> dict:
        found = Detections.collected(predictions, self.cat_ids, masks=kind == 'segm')
        if not len(found):
            print_log(f'No {kind} detections at all: every AP is 0.', 'current')
            names = self.dataset_meta['classes']
            figures = (*_MMDET_KEYS, 'AR')
            return dict.fromkeys(figures, 0.0) | {'per_class': dict.fromkeys(names, 0.0)}
        rules = Rules(self.img_ids, self.cat_ids, self.iou_thrs, self.proposal_nums)
        if self.backend == 'pycocotools':
            arrays = with_pycocotools(self._coco_api, found, rules)
        else:
            if self._fast_truth is None:
                self._fast_truth = HotcocoTruth(self._coco_api.dataset)
            arrays = with_hotcoco(self._fast_truth, found, rules)
        return figures_of(arrays, rules, {i: self._coco_api.cats[i]['name'] for i in self.cat_ids})


def _installed(backend: str) -> str:
    if backend not in ('auto', *_BACKENDS):
        raise ConfigError(f'backend={backend!r}: give auto, {" or ".join(_BACKENDS)}.')
    is_there = find_spec('hotcoco') is not None
    if backend == 'hotcoco' and not is_there:
        raise ConfigError(
            f'backend={backend!r} is not installed: pip install {backend}, or say pycocotools.'
        )
    return backend if backend != 'auto' else _BACKENDS[0 if is_there else 1]


def _refuse_unsupported(kinds: list[str], options: dict) -> None:
    if strange := [kind for kind in kinds if kind not in _KINDS]:
        raise ConfigError(
            f'metric={strange[0]!r}: CocoInstanceMetric evaluates bbox and segm; mmdet.CocoMetric has '
            'the other ones.'
        )
    defaults = {'metric_items': None, 'use_mp_eval': False, 'file_client_args': None}
    for name, default in defaults.items():
        if options.pop(name, default) not in (default, None):
            raise ConfigError(
                f'{name} is an option of mmdet.CocoMetric that CocoInstanceMetric does not support; '
                'remove it.'
            )


def _limits(numbers: Sequence[int]) -> list[int]:
    limits = list(numbers)
    if not limits or limits != sorted(limits) or limits[0] < 1:
        raise ConfigError(
            f'proposal_nums={numbers!r}: give ascending numbers of detections, e.g. (1, 10, 100).'
        )
    return limits


def _thresholds(thresholds: float | Sequence[float] | None) -> np.ndarray:
    if thresholds is None:
        return np.linspace(0.5, 0.95, 10)
    array = np.atleast_1d(np.asarray(thresholds, float))
    if not array.size or not ((array > 0) & (array <= 1)).all():
        raise ConfigError(f'iou_thrs={thresholds!r}: give IoU thresholds above 0 and up to 1.')
    return array


def _number(value: float | None) -> float:
    return float('nan') if value is None else value
