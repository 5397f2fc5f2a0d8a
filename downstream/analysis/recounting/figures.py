"""Figures of a data set in which images occur any number of times, recounted exactly.

An image that a bootstrap draws twice has its objects and its detections twice. Detections keep their
order, so that cumulative sums of the weights of their images are the counts of the larger data set.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from .matches import ClassMatches, Matches

_RECALLS = np.linspace(0, 1, 101)
# Data sets at a time: arrays of one class stay in the cache of a CPU.
_CHUNK = 128


def average_precisions(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP of each class, the mean over the thresholds of IoU, for each of ``S`` data sets.

    Copies of a detection follow each other in the ranking, as they do where a copy's id follows that
    of its image; several of one class and image with equal scores would alternate.

    Args:
        matches: Of ``N`` images.
        weights: ``(N, S)`` of integers, how often each image occurs.

    Returns:
        ``(C, S)`` of float64, fractions; NaN where a class has no object.
    """
    weights = weights.astype(np.int32)
    objects = matches.objects.T @ weights
    figures = np.empty(objects.shape)
    for number, one in enumerate(matches.by_class):
        curves = _Curves.of(one, len(weights))
        for first in range(0, weights.shape[1], _CHUNK):
            part = slice(first, first + _CHUNK)
            own = np.ascontiguousarray(weights[:, part])
            figures[number, part] = curves.recount(own, objects[number, part])
    figures[objects == 0] = np.nan
    return figures


class _Curves:
    """Precision-recall curves of one class, as functions of the weights of images."""

    def __init__(self, before: csr_array, curves: list) -> None:
        self.before = before
        self.curves = curves

    @classmethod
    def of(cls, one: ClassMatches, images: int) -> _Curves:
        # Interpolated precision changes at right detections only: the others are summed between them.
        ends = np.flatnonzero(one.right.any(0))
        before = _between(ends, np.arange(len(one.images)), one.images, images)
        curves = []
        for right, ignored in zip(one.right, one.ignored):
            places = np.flatnonzero(right)
            left_out = np.flatnonzero(ignored)
            curves.append(
                (
                    one.images[places],
                    np.searchsorted(ends, places),
                    _between(places, left_out, one.images[left_out], images)
                    if left_out.size
                    else None,
                )
            )
        return cls(before, curves)

    def recount(self, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """AP ``(S,)`` for ``weights`` ``(N, S)`` and ``objects`` ``(S,)``; anything without objects."""
        ranked = np.cumsum(self.before @ weights, axis=0)
        total = np.zeros(weights.shape[1])
        for images, ends, left_out in self.curves:
            right = np.cumsum(weights[images], axis=0)
            counted = ranked[ends]
            if left_out is not None:
                counted = counted - np.cumsum(left_out @ weights, axis=0)
            total += _area(right, counted, objects)
        return total / len(self.curves)


def _between(ends: np.ndarray, places: np.ndarray, owners: np.ndarray, images: int) -> csr_array:
    """``(len(ends), N)``: how many ``places`` of each image come after the last end, up to each one."""
    rows = np.searchsorted(ends, places)
    inside = rows < len(ends)
    entries = (np.ones(inside.sum(), np.int32), (rows[inside], owners[inside]))
    return csr_array(entries, shape=(len(ends), images))


def _area(right: np.ndarray, counted: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Mean interpolated precision ``(S,)`` over COCO's 101 recalls, of counts ``(K, S)``."""
    if not len(right):
        return np.zeros(len(objects))
    # The summand is COCO's, too: it keeps what has not been counted from dividing by zero.
    precision = right / (counted + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    with np.errstate(divide='ignore', invalid='ignore'):
        recall = right / objects
    reached = np.searchsorted(_RECALLS, recall, side='right')
    return (precision * np.diff(reached, axis=0, prepend=0)).sum(0) / len(_RECALLS)


def ious(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """IoU of each class for each of ``S`` data sets, from pixels of each image.

    Args:
        counts: ``(3, N, C)``: pixels that are right, annotated and predicted.
        weights: ``(N, S)`` of integers, how often each image occurs.

    Returns:
        ``(C, S)`` of float64, percent; NaN where a class occurs neither as annotation nor as prediction.
    """
    # Sums of integers below 2^53 are exact in float64, whose product is the fast one.
    right, annotated, predicted = (
        part.T.astype(np.float64) @ weights.astype(np.float64) for part in counts
    )
    with np.errstate(invalid='ignore'):
        return 100 * right / (annotated + predicted - right)


def ious_without(counts: np.ndarray) -> np.ndarray:
    """IoU of each class for the data set without one of its images, for each image.

    Args:
        counts: ``(3, N, C)``: pixels that are right, annotated and predicted.

    Returns:
        ``(C, N)`` of float64, percent; NaN where a class occurs in no other image.
    """
    right, annotated, predicted = (counts.sum(1, keepdims=True) - counts).astype(np.float64)
    with np.errstate(invalid='ignore'):
        return (100 * right / (annotated + predicted - right)).T
