"""COCO box and mask average precision, at full precision and per class."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmdet.evaluation.metrics import CocoMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from backbones.errors import ConfigError
from downstream.distributed.gather import DataOnlyMetric

_BACKENDS = ('faster-coco-eval', 'pycocotools')

# Position in COCOeval.stats, which is in COCO's order.
_STATS = {'AP': 0, 'AP50': 1, 'AP75': 2, 'APs': 3, 'APm': 4, 'APl': 5, 'AR': 8}
# The keys under which mmdet reports them (for hooks such as save_best).
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
    APl, AR as fractions and ``per_class``; a figure that nothing supports is None.

    Args:
        save_dir: Folder for the detections in COCO's result format, ``detections.bbox.json`` and
            ``detections.segm.json``.
        backend: ``'faster-coco-eval'``, whose figures are those of pycocotools several times as
            fast, ``'pycocotools'``, or ``'auto'``: the first that is installed.
        kwargs: Those of ``CocoMetric``.

    Raises:
        ConfigError: There is no such backend, or it is not installed.
    """

    def __init__(self, *args, save_dir: str | None = None, backend: str = 'auto', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.save_dir = save_dir
        self.backend = _installed(backend)
        self.report: dict[str, dict] = {}

    def compute_metrics(self, results: list) -> dict[str, float]:
        _, predictions = zip(*results)
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(self.save_dir or aside)
            folder.mkdir(parents=True, exist_ok=True)
            files = self.results2json(predictions, str(folder / 'detections'))
            detections = {kind: json.loads(Path(files[kind]).read_text()) for kind in self.metrics}
        flat = {}
        for kind, found in detections.items():
            self.report[kind] = self._evaluate(kind, found)
            for name, key in _MMDET_KEYS.items():
                value = self.report[kind][name]
                flat[f'{kind}_{key}'] = float('nan') if value is None else value
        return flat

    def _evaluate(self, kind: str, detections: list[dict]) -> dict:
        if not detections:
            print_log(f'No {kind} detections at all: every AP is 0.', 'current')
            names = self.dataset_meta['classes']
            return dict.fromkeys(_STATS, 0.0) | {'per_class': dict.fromkeys(names, 0.0)}
        if kind == 'segm':
            # With a box in the result pycocotools takes the box's area for the size classes.
            detections = [{k: v for k, v in d.items() if k != 'bbox'} for d in detections]
        evaluation = evaluated(
            lambda: self._evaluation(kind, detections), catIds=self.cat_ids, imgIds=self.img_ids
        )
        report = {name: _supported(evaluation.stats[i]) for name, i in _STATS.items()}
        # precision: IoU threshold, recall, class, area range, detections per image
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        names = [self._coco_api.cats[cat]['name'] for cat in self.cat_ids]
        report['per_class'] = {
            name: _supported(values[values > -1].mean() if (values > -1).any() else -1)
            for name, values in zip(names, np.moveaxis(precision, 2, 0))
        }
        return report

    def _evaluation(self, kind: str, detections: list[dict]) -> COCOeval:
        """An evaluation of ``detections``, of either library."""
        if self.backend == 'pycocotools':
            return COCOeval(self._coco_api, self._coco_api.loadRes(detections), kind)
        return faster_evaluation(self._coco_api.dataset, detections, kind)


def evaluated(make: Callable[[], COCOeval], **params) -> COCOeval:
    """What ``make`` returns, evaluated quietly under ``params``.

    Millions of small objects are made and kept meanwhile, among which the garbage collector would look a
    quarter of the time for cycles that are not there.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = make()
            for name, value in params.items():
                setattr(evaluation.params, name, value)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    finally:
        if was_on:
            gc.enable()
    return evaluation


def faster_evaluation(truth: dict, detections: list[dict], kind: str) -> COCOeval:
    """faster-coco-eval's evaluation of ``detections`` beside annotations in COCO's format.

    Areas and boxes of masks are found all at once; its own ``loadRes`` takes half as long as the
    evaluation for them.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    expected = COCO(truth)
    if kind != 'segm':
        return COCOeval_faster(expected, expected.loadRes(detections), kind)
    masks = [detection['segmentation'] for detection in detections]
    # pycocotools counts them in 8 bits
    areas = [mask.area(masks[i : i + 255]) for i in range(0, len(masks), 255)]
    found = COCO()
    found.dataset = {key: truth[key] for key in ('images', 'categories')}
    found.dataset['annotations'] = [
        {**detection, 'id': number, 'area': area, 'bbox': box, 'iscrowd': 0}
        for number, (detection, area, box) in enumerate(
            zip(detections, np.concatenate(areas).tolist(), mask.toBbox(masks).tolist()), 1
        )
    ]
    found.createIndex()
    return COCOeval_faster(expected, found, kind)


def _installed(backend: str) -> str:
    if backend not in ('auto', *_BACKENDS):
        raise ConfigError(f'backend={backend!r}: give auto, {" or ".join(_BACKENDS)}.')
    is_there = find_spec('faster_coco_eval') is not None
    if backend == 'faster-coco-eval' and not is_there:
        raise ConfigError(
            f'backend={backend!r} is not installed: pip install {backend}, or say pycocotools.'
        )
    return backend if backend != 'auto' else _BACKENDS[0 if is_there else 1]


def _supported(value: float) -> float | None:
    """pycocotools says -1 where there is no object to find."""
    return None if value < 0 else float(value)
