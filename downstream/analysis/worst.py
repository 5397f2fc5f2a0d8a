"""The images that a detector is worst at, by kind of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.detection.coco_evaluation import Detections, Rules

from . import kept
from .evaluated import Evaluated, ImageOverlaps
from .thresholds import best_threshold

# TIDE's kinds, in the order in which a detection is tried for them.
KINDS = {
    'Loc': 'the right class, in the wrong place',
    'Cls': 'the right place, of another class',
    'Dupe': 'an object found before',
    'Bkg': 'nothing',
    'Both': 'neither class nor place',
    'Miss': 'an object that nothing was detected at',
}
# TIDE's limit: a detection that overlaps an object no more is of the background.
_NEAR = 0.1


@dataclass(frozen=True)
class ImageErrors:
    """What a detector does with an image, above a score."""

    image: int | str
    """Id."""
    file_name: str
    objects: int
    """Without crowds."""
    right: int
    """Objects found."""
    errors: dict[str, int]
    """Kind of :data:`KINDS` -> how many."""
    f1: float | None
    """None for an image without objects and without detections."""

    @property
    def total(self) -> int:
        """Errors of all kinds."""
        return sum(self.errors.values())


def worst_of(test: kept.TestRun, kind: str = 'bbox') -> list[ImageErrors]:
    """The images of a test, the worst first.

    Args:
        test: A test of detection.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: Detections or annotations are not there, or contradict each other.
    """
    return image_errors(*kept.evaluation_of(test, kind))


def image_errors(
    truth: Mapping[str, list[dict]],
    found: Detections,
    rules: Rules,
    classes: Sequence[str],
    min_score: float | None = None,
) -> list[ImageErrors]:
    """The same of arrays.

    Args:
        truth: A COCO dict whose annotations have ids, areas and iscrowd.
        found: The detections; with masks, masks are compared.
        rules: What is counted.
        classes: Names in the order of ``rules.categories``.
        min_score: Detections below it are left out; None: the threshold of the largest F1.

    Returns:
        All images, by falling number of errors.

    Raises:
        DataError: There is no image, or a detection is on one that is not in ``truth``.
    """
    evaluated = Evaluated(truth, found, rules, classes)
    if min_score is None:
        counted, objects = evaluated.counted, len(evaluated.objects)
        best = best_threshold('all', found.scores[counted], evaluated.right[counted], objects)
        min_score = best.score or 0.0
    listed = [_errors_of(evaluated, here, min_score) for here in evaluated.overlaps(min_score)]
    return sorted(listed, key=lambda one: (-one.total, one.f1 or 0))


def worst(images: Sequence[ImageErrors], kind: str, count: int) -> list[ImageErrors]:
    """The ``count`` images with most errors of a kind, those without any left out."""
    chosen = [one for one in images if one.errors[kind]]
    return sorted(chosen, key=lambda one: (-one.errors[kind], -one.total))[:count]


def _errors_of(evaluated: Evaluated, here: ImageOverlaps, min_score: float) -> ImageErrors:
    scores = evaluated.found.scores
    finders = [evaluated.finder.get(one['id']) for one in here.annotations]
    hit = np.array([f is not None and scores[f] >= min_score for f in finders], bool)
    errors = dict.fromkeys(KINDS, 0)
    explained = hit | here.crowd
    for iou, place in zip(here.iou, here.places):
        if evaluated.counted[place] and not evaluated.right[place]:
            own = here.labels == evaluated.found.labels[place]
            kind, at = _kind_of(np.where(here.crowd, 0, iou), own, evaluated.iou)
            errors[kind] += 1
            if kind in ('Loc', 'Cls'):
                explained[at] = True
    errors['Miss'] = int((~explained).sum())
    objects, right = int((~here.crowd).sum()), int(hit.sum())
    detected = int(evaluated.counted[here.places].sum())
    return ImageErrors(
        image=here.image['id'],
        file_name=str(here.image.get('file_name', here.image['id'])),
        objects=objects,
        right=right,
        errors=errors,
        f1=2 * right / (objects + detected) if objects + detected else None,
    )


def _kind_of(iou: np.ndarray, own: np.ndarray, threshold: float) -> tuple[str, int]:
    """Which error a wrong detection is, and the annotation that it is nearest to in this way."""
    of_own, of_others = np.where(own, iou, 0), np.where(own, 0, iou)
    if _NEAR <= of_own.max(initial=0) <= threshold:
        return 'Loc', int(of_own.argmax())
    if of_others.max(initial=0) >= threshold:
        return 'Cls', int(of_others.argmax())
    if of_own.max(initial=0) >= threshold:
        return 'Dupe', int(of_own.argmax())
    return ('Bkg' if iou.max(initial=0) <= _NEAR else 'Both'), -1
