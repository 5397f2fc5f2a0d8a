"""Annotations that look wrong, the most suspicious first.

Where a sure detection and the annotations contradict each other, one of them is wrong. How sure a
detection is, is measured: by its score and class, the share of detections that are right among these and
those that are wrong in the same way (Platt scaling on the test itself). So scores of different models and
kinds of suspects can be ranked together. A model that was trained on the examined annotations has learned
some of their faults; test images it has not seen show more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.detection.coco_evaluation import Detections, Rules

from . import kept
from .evaluated import Evaluated, ImageOverlaps

KINDS = {
    'missing': 'an object without annotation',
    'label': 'an annotation of another class',
    'box': 'an annotation in the wrong place',
    'extra': 'an annotation of nothing',
}
# Below this score a detection says nothing of an annotation.
_MIN_SCORE = 0.05
# TIDE's limit: a detection that overlaps an object less is of the background.
_NEAR = 0.1
# The share of objects that are taken to be annotated wrongly in each way, before a test is looked at.
# People rarely annotate nothing. The order within a kind does not depend on it.
_PRIOR = {'missing': 0.02, 'label': 0.02, 'box': 0.02, 'extra': 0.004}


@dataclass(frozen=True)
class Suspect:
    """An annotation that looks wrong, or one that seems to be missing."""

    kind: str
    """One of :data:`KINDS`."""
    image: int | str
    """Id."""
    file_name: str
    suspicion: float
    """How likely the annotation is wrong, if 2 % of all were in each way; a rank, no measurement."""
    annotation: int | None = None
    """Id; None where one is missing."""
    annotated: str | None = None
    """Class of the annotation."""
    annotated_box: tuple[float, ...] | None = None
    """x, y, width, height in pixels."""
    predicted: str | None = None
    """Class of the detection; None for an annotation that nothing was detected at."""
    predicted_box: tuple[float, ...] | None = None
    score: float | None = None
    iou: float | None = None
    """Of the two."""


def suspects_of(test: kept.TestRun, kind: str = 'bbox') -> list[Suspect]:
    """The annotations of a test that look wrong.

    Args:
        test: A test of detection.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: Detections or annotations are not there, or contradict each other.
    """
    return suspects(*kept.evaluation_of(test, kind))


def suspects(
    truth: Mapping[str, list[dict]], found: Detections, rules: Rules, classes: Sequence[str]
) -> list[Suspect]:
    """The same of arrays.

    Args:
        truth: A COCO dict whose annotations have ids, areas and iscrowd.
        found: The detections; with masks, masks are compared.
        rules: What is counted.
        classes: Names in the order of ``rules.categories``.

    Returns:
        By falling suspicion. An annotation is named once, and so is a place where one is missing.

    Raises:
        DataError: There is no image, or a detection is on one that is not in ``truth``.
    """
    search = _Search(Evaluated(truth, found, rules, classes))
    listed = [one for here in search.images for one in search.of(here)]
    return sorted(listed, key=lambda one: -one.suspicion)


@dataclass(frozen=True)
class _Contradiction:
    """A detection that found no object, and what would explain it."""

    kind: str
    row: int
    """Of the detection in the image."""
    at: int | None
    """Of the annotation in the image."""
    weight: float
    """0 to 1, how well it explains the detection: by overlap, and by what else was detected there."""


class _Search:
    """What is needed of the whole data set to judge one image."""

    def __init__(self, evaluated: Evaluated) -> None:
        self.evaluated = evaluated
        self.images = list(evaluated.overlaps(_MIN_SCORE))
        self.wrong = {here.image['id']: self._contradictions(here) for here in self.images}
        self.sure = {kind: self._sure(kind) for kind in ('missing', 'label', 'box')}
        objects = evaluated.objects
        sizes = np.log([max(1.0, one['area']) for one in objects])
        hit = np.array([one['id'] in evaluated.finder for one in objects], bool)
        found = _probability(sizes, hit, evaluated.object_labels)
        self.detectable = {one['id']: float(p) for one, p in zip(objects, found)}

    def _sure(self, kind: str) -> np.ndarray:
        """How likely each detection ``(N,)`` is right rather than wrong in this way, by its score."""
        found = self.evaluated.found
        chosen = self.evaluated.right & (found.scores >= _MIN_SCORE)
        for here in self.images:
            rows = [one.row for one in self.wrong[here.image['id']] if one.kind == kind]
            chosen[here.places[rows]] = True
        sure = np.zeros(len(found))
        sure[chosen] = _probability(
            _logit(found.scores[chosen]), self.evaluated.right[chosen], found.labels[chosen]
        )
        return sure

    def of(self, here: ImageOverlaps) -> Iterator[Suspect]:
        """The suspects of an image: the strongest of each annotation and place."""
        taken: set = set()
        shown = _Places(self.evaluated.iou, len(here.places))
        for one in sorted(self._candidates(here), key=lambda one: -one.suspicion):
            box = one.predicted_box
            if one.annotation in taken or (box and shown.cover(box)):
                continue
            if one.annotation is not None:
                taken.add(one.annotation)
            if box:
                shown.add(box)
            yield one

    def _candidates(self, here: ImageOverlaps) -> Iterator[Suspect]:
        for one in self.wrong[here.image['id']]:
            sure = self.sure[one.kind][here.places[one.row]]
            odds = one.weight * sure / max(1 - sure, 1e-6)
            yield self._suspect(one.kind, here, odds, one.at, one.row)
        near = here.iou.max(0, initial=0) >= _NEAR
        for at, annotation in enumerate(here.annotations):
            if not near[at] and not here.crowd[at]:
                odds = 1 / max(1 - self.detectable[annotation['id']], 1e-6)
                yield self._suspect('extra', here, odds, at, None)

    def _support(self, annotation: Mapping) -> float:
        """The score of the detection that found an annotation."""
        finder = self.evaluated.finder.get(annotation['id'])
        return 0.0 if finder is None else float(self.evaluated.found.scores[finder])

    def _contradictions(self, here: ImageOverlaps) -> list[_Contradiction]:
        """Detections that found no object, where they are no second ones of an object."""
        evaluated = self.evaluated
        unfound = [one['id'] not in evaluated.finder for one in here.annotations]
        listed = []
        for row, (iou, place) in enumerate(zip(here.iou, here.places)):
            if evaluated.right[place] or not evaluated.counted[place]:
                continue
            own = here.labels == evaluated.found.labels[place]
            of_own = np.where(own & ~here.crowd, iou, 0)
            of_others = np.where(own | here.crowd, 0, iou)
            if max(of_own.max(initial=0), iou[here.crowd].max(initial=0)) >= evaluated.iou:
                continue
            of_unfound = np.where(unfound, of_own, 0)
            nearest = max(of_own.max(initial=0), of_others.max(initial=0))
            if of_others.max(initial=0) >= evaluated.iou:
                at = int(of_others.argmax())
                doubt = 1 - self._support(here.annotations[at]) / evaluated.found.scores[place]
                if doubt <= 0:
                    continue  # the model's second guess
                one = _Contradiction('label', row, at, of_others.max() * doubt**2)
            elif of_unfound.max(initial=0) >= _NEAR:
                weight = 1 - of_unfound.max() / evaluated.iou
                one = _Contradiction('box', row, int(of_unfound.argmax()), weight)
            else:
                one = _Contradiction('missing', row, None, 1 - nearest)
            listed.append(one)
        return listed

    def _suspect(
        self, kind: str, here: ImageOverlaps, odds: float, at: int | None, row: int | None
    ) -> Suspect:
        classes, found = self.evaluated.classes, self.evaluated.found
        facts: dict = {}
        if at is not None:
            one = here.annotations[at]
            facts |= {
                'annotation': one['id'],
                'annotated': classes[here.labels[at]],
                'annotated_box': tuple(map(float, one['bbox'])),
            }
        if row is not None:
            place = here.places[row]
            facts |= {
                'predicted': classes[found.labels[place]],
                'predicted_box': tuple(found.boxes[place].tolist()),
                'score': float(found.scores[place]),
            }
        if at is not None and row is not None:
            facts['iou'] = float(here.iou[row, at])
        image = here.image
        name = str(image.get('file_name', image['id']))
        odds *= _PRIOR[kind]
        return Suspect(kind, image['id'], name, float(odds / (1 + odds)), **facts)


class _Places:
    """Where suspects of one image have been listed."""

    def __init__(self, iou: float, most: int) -> None:
        self.iou = iou
        self.boxes = np.empty((most, 4))
        self.count = 0

    def add(self, box: Sequence[float]) -> None:
        self.boxes[self.count] = box
        self.count += 1

    def cover(self, box: Sequence[float]) -> bool:
        """Whether a box ``x, y, width, height`` is where another one has been listed."""
        one, others = np.array(box), self.boxes[: self.count]
        near, far = np.maximum(one[:2], others[:, :2]), one[:2] + one[2:]
        sides = np.maximum(0, np.minimum(far, others[:, :2] + others[:, 2:]) - near)
        both = sides.prod(1)
        areas = one[2:].prod() + others[:, 2:].prod(1) - both
        return bool((both >= self.iou * np.maximum(areas, np.finfo(float).tiny)).any())


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.log(inside / (1 - inside))


def _probability(feature: np.ndarray, outcome: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How likely ``outcome`` is, by a number and by the class of each, all ``(N,)``."""
    if not len(feature):
        return np.zeros(0)
    return _by_class(_platt(feature, outcome), outcome, labels)


def _platt(feature: np.ndarray, outcome: np.ndarray, steps: int = 25) -> np.ndarray:
    """The probability of ``outcome`` by ``feature``: a logistic regression by Newton's method.

    The targets are Platt's (1999), whose smoothing keeps it finite where the two separate.
    """
    hits = outcome.sum()
    target = np.where(outcome, (hits + 1) / (hits + 2), 1 / (len(outcome) - hits + 2))
    design = np.column_stack([np.ones(len(feature)), feature])
    weights = np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (target - p) - 1e-3 * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-3 * np.eye(2)
        weights += np.linalg.solve(curvature, gradient)
    return 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))


def _by_class(p: np.ndarray, outcome: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``p`` with the odds of a class multiplied by what it has of outcomes beside what ``p`` expects."""
    hits, expected, failed, unexpected = (
        np.bincount(labels, weights=values) for values in (outcome, p, ~outcome, 1 - p)
    )
    prior = 2.0
    ratio = (hits + prior) / (expected + prior) * (unexpected + prior) / (failed + prior)
    odds = p / (1 - p) * ratio[labels]
    return odds / (1 + odds)
