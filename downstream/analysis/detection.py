"""What the result of a detector means: errors, confusions, curves, thresholds, sizes.

All of it is counted by hotcoco from one matching of detections and objects. A figure that no object
supports is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from downstream.detection.coco_evaluation import (
    Detections,
    Rules,
    figures_of,
    hotcoco_evaluation,
)

from . import kept
from .evaluated import COCO_SIDES, SIDES, Evaluated
from .thresholds import Threshold, best_threshold

# Fewest and most objects of an image in a group.
_COUNTS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, None))
_CURVES = (0.5, 0.75)


@dataclass(frozen=True)
class ClassFigures:
    """The figures of a class, or of all."""

    name: str
    figures: dict[str, float | None]
    """AP, AP50, AP75, APs, APm, APl, AR as fractions."""
    objects: int
    """Without crowds."""
    detections: int


@dataclass(frozen=True)
class Errors:
    """The errors of TIDE (Bolya et al. 2020): what AP would gain if all of a kind were corrected."""

    gain: dict[str, float]
    """``Cls``, ``Loc``, ``Both``, ``Dupe``, ``Bkg``, ``Miss``, and ``FP``, ``FN``: AP as a fraction."""
    counts: dict[str, int]
    """Detections of the kinds, objects for ``Miss``."""
    ap: float
    """AP at the IoU threshold of the analysis."""


@dataclass(frozen=True)
class Confusion:
    """How often an object of a class (row) was detected as another (column).

    The last row has detections of nothing, the last column objects that were missed. Detections of a
    crowd of their class do not count.
    """

    matrix: np.ndarray
    """``(K + 1, K + 1)`` of int64."""
    min_score: float
    """Detections below it were left out."""


@dataclass(frozen=True)
class Curve:
    """Precision over recall; ``precision[i]`` is the best one at a recall of at least ``recall[i]``."""

    recall: np.ndarray
    """``(101,)``."""
    precision: np.ndarray
    """``(K, 101)``; NaN for a class without objects."""
    scores: np.ndarray
    """``(K, 101)``, the score at which this recall is reached; 0 where it is not."""


@dataclass(frozen=True)
class Calibration:
    """Whether scores are the share of correct detections."""

    bins: list[dict[str, float]]
    """``bin_lower``, ``bin_upper``, ``avg_confidence``, ``avg_accuracy``, ``count``."""
    error: float | None
    """Expected calibration error: the mean gap, weighted by detections."""
    per_class: dict[str, float | None]


@dataclass(frozen=True)
class SizeFigures:
    """The figures of objects whose area is that of squares with sides in ``[low, high]`` pixels."""

    low: int
    high: int | None
    objects: int
    ap: float | None
    ap50: float | None
    recall: float | None
    """AR: the mean over IoU thresholds and classes, at most as many detections as the metric allows."""


@dataclass(frozen=True)
class CountFigures:
    """The figures of images with ``low`` to ``high`` objects."""

    low: int
    high: int | None
    images: int
    objects: int
    ap: float | None
    ap50: float | None
    false_per_image: float | None
    """Wrong detections above the class's best threshold."""
    found: float | None
    """Share of the objects found by detections above it."""


@dataclass(frozen=True)
class DetectionAnalysis:
    """All of it, for boxes or masks."""

    kind: str
    """``'bbox'`` or ``'segm'``."""
    iou: float
    """IoU threshold of errors, confusion, thresholds and calibration: 0.5 if the metric has it."""
    total: ClassFigures
    classes: list[ClassFigures]
    errors: Errors
    confusion: Confusion
    curves: dict[float, Curve]
    """By IoU threshold: 0.5 and 0.75, where the metric has them."""
    threshold: Threshold
    """The best one for all classes together."""
    thresholds: list[Threshold]
    """The best one of each class."""
    calibration: Calibration
    sizes: list[SizeFigures]
    counts: list[CountFigures]


def analyse(test: kept.TestRun, kind: str = 'bbox') -> DetectionAnalysis:
    """Analyse the detections that a test kept.

    Args:
        test: A test of detection.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: Detections or annotations are not there, or contradict each other.
    """
    return analyse_detections(*kept.evaluation_of(test, kind))


def analyse_detections(
    truth: Mapping[str, list[dict]], found: Detections, rules: Rules, classes: Sequence[str]
) -> DetectionAnalysis:
    """The same of arrays.

    Args:
        truth: A COCO dict whose annotations have ids, areas and iscrowd.
        found: The detections; with masks, masks are compared.
        rules: What is counted.
        classes: Names in the order of ``rules.categories``.

    Raises:
        DataError: There is no image, or a detection is on one that is not in ``truth``.
    """
    one = _Figures(truth, found, rules, classes)
    threshold, thresholds = one.thresholds()
    per_class = [one.figures([place]) for place in range(len(classes))]
    return DetectionAnalysis(
        kind='bbox' if found.masks is None else 'segm',
        iou=one.iou,
        total=one.figures(None),
        classes=per_class,
        errors=one.errors(),
        confusion=one.confusion(threshold.score or 0),
        curves={at: curve for at in _CURVES if (curve := one.curve(at))},
        threshold=threshold,
        thresholds=thresholds,
        calibration=one.calibration(),
        sizes=one.sizes(),
        counts=one.counts(thresholds),
    )


class _Figures(Evaluated):
    """The figures of one evaluation."""

    def figures(self, places: list[int] | None) -> ClassFigures:
        rows = range(len(self.classes)) if places is None else places
        arrays = {
            name: np.asarray(self.arrays[name])[..., [self.order[row] for row in rows], :, :]
            for name in ('precision', 'recall')
        }
        inner = Rules(self.rules.images, list(rows), self.rules.thresholds, self.rules.limits)
        figures = figures_of(arrays, inner, {})
        figures.pop('per_class')
        return ClassFigures(
            name='all' if places is None else self.classes[places[0]],
            figures=figures,
            objects=int(np.isin(self.object_labels, list(rows)).sum()),
            detections=int(np.isin(self.found.labels, list(rows)).sum()),
        )

    def errors(self) -> Errors:
        content = self.evaluation.tide_errors(pos_thr=self.iou)
        return Errors(content['delta_ap'], content['counts'], content['ap_base'])

    def confusion(self, min_score: float) -> Confusion:
        # hotcoco's counts what lies in a crowd of its class as wrong, which AP does not.
        found = self.found.chosen(self.counted)
        evaluation = hotcoco_evaluation(self.truth, found, self.rules)
        matrix = evaluation.confusion_matrix(iou_thr=self.iou, min_score=min_score)['matrix']
        order = [*self.order, len(self.order)]
        return Confusion(matrix.astype(np.int64)[np.ix_(order, order)], min_score)

    def curve(self, threshold: float) -> Curve | None:
        at = np.isclose(self.rules.thresholds, threshold)
        if not at.any():
            return None
        precision, scores = (
            np.asarray(self.arrays[name])[at.argmax(), :, :, 0, -1].T[self.order]
            for name in ('precision', 'scores')
        )
        known = precision > -1
        recall = np.linspace(0, 1, precision.shape[1])
        return Curve(recall, np.where(known, precision, np.nan), np.where(known, scores, np.nan))

    def thresholds(self) -> tuple[Threshold, list[Threshold]]:
        def best(name: str, chosen: np.ndarray, objects: int) -> Threshold:
            chosen = chosen & self.counted
            return best_threshold(name, self.found.scores[chosen], self.right[chosen], objects)

        labels = self.found.labels
        objects = np.bincount(self.object_labels, minlength=len(self.classes))
        total = best('all', np.ones(len(labels), bool), len(self.objects))
        return total, [
            best(name, labels == place, int(objects[place]))
            for place, name in enumerate(self.classes)
        ]

    def calibration(self) -> Calibration:
        content = self.evaluation.calibration(n_bins=10, iou_threshold=self.iou)
        numbered = content['per_category']
        return Calibration(
            bins=content['bins'],
            error=content['ece'] if content['num_detections'] else None,
            per_class={
                name: numbered.get(str(number + 1))
                for name, number in zip(self.classes, self.order)
            },
        )

    def sizes(self) -> list[SizeFigures]:
        areas = np.array([one['area'] for one in self.objects])
        rows = []
        for place, (low, high) in enumerate(pairwise(SIDES), len(COCO_SIDES)):
            precision = np.asarray(self.arrays['precision'])[:, :, :, place, -1]
            recall = np.asarray(self.arrays['recall'])[:, :, place, -1]
            at = np.isclose(self.rules.thresholds, 0.5)
            rows.append(
                SizeFigures(
                    low=low,
                    high=high if high < SIDES[-1] else None,
                    objects=int(((areas >= low**2) & (areas <= high**2)).sum()),
                    ap=_mean(precision),
                    ap50=_mean(precision[at]),
                    recall=_mean(recall),
                )
            )
        return rows

    def counts(self, thresholds: Sequence[Threshold]) -> list[CountFigures]:
        per_image = dict.fromkeys(self.rules.images, 0)
        for one in self.objects:
            per_image[one['image_id']] += 1
        groups = [
            [id_ for id_, n in per_image.items() if low <= n <= (n if high is None else high)]
            for low, high in _COUNTS
        ]
        slices = self.evaluation.slice_by(
            {str(n): [self.images[id_] for id_ in group] for n, group in enumerate(groups) if group}
        )
        return [
            self._count_figures(limits, group, slices.get(str(n), {}), thresholds)
            for n, (limits, group) in enumerate(zip(_COUNTS, groups))
        ]

    def _count_figures(
        self,
        limits: tuple[int, int | None],
        group: list,
        figures: Mapping[str, float],
        thresholds: Sequence[Threshold],
    ) -> CountFigures:
        # A class that has no best threshold has no object that was found.
        least = np.array([np.inf if one.score is None else one.score for one in thresholds])
        sure = self.found.scores >= least[self.found.labels]
        chosen = set(group)
        inside = np.repeat([id_ in chosen for id_ in self.found.images], self.found.counts)
        objects = [one for one in self.objects if one['image_id'] in chosen]
        hits = sum(bool(sure[self.finder[o['id']]]) for o in objects if o['id'] in self.finder)
        wrong = int((sure & self.counted & ~self.right & inside.astype(bool)).sum())
        return CountFigures(
            *limits,
            images=len(group),
            objects=len(objects),
            ap=_known(figures.get('AP')),
            ap50=_known(figures.get('AP50')),
            false_per_image=wrong / len(group) if group else None,
            found=hits / len(objects) if objects else None,
        )


def _known(value: Any) -> float | None:
    return None if value is None or value < 0 else float(value)


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
