"""Pixels of one segmented image counted: by pair of classes, at boundaries, by size of regions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Pixels of a region below which it is small, and medium: COCO's.
SIZES = {'small': 32**2, 'medium': 96**2, 'large': np.inf}
# Width of a boundary as a part of the diagonal (Cheng et al. 2021, "Boundary IoU").
BOUNDARY = 0.02
# Pixels without annotation, in the arrays of this file.
_NONE = -1


@dataclass(frozen=True)
class ImageCounts:
    """What is counted of one image, for ``C`` classes."""

    confusion: np.ndarray
    """``(n, 3)`` of int64: annotated class, predicted class, pixels; pairs that do not occur are left
    out."""
    boundary: np.ndarray
    """``(m, 4)`` of int64: class, pixels in the boundaries of annotation and prediction, in that of the
    annotation, in that of the prediction; classes without boundary are left out."""
    regions: np.ndarray
    """``(k, 4)`` of int64, the connected regions of the annotation: class, place in :data:`SIZES`,
    pixels, those predicted as the class."""


def count_image(predicted: np.ndarray, annotated: np.ndarray, classes: int) -> ImageCounts:
    """Count an image.

    Pixels without annotation belong to no class, predicted or annotated.

    Args:
        predicted: ``(H, W)`` of integers below ``classes``.
        annotated: ``(H, W)`` of integers; a value that is no class is no annotation.
        classes: ``C``.
    """
    known = (annotated >= 0) & (annotated < classes)
    annotated = np.where(known, annotated, _NONE).astype(np.int16)
    predicted = np.where(known, predicted, _NONE).astype(np.int16)
    begins, begins_either = _begins(annotated), _begins(predicted)
    begins_either |= begins
    runs = np.flatnonzero(begins)
    either = np.flatnonzero(begins_either)
    pixels = np.diff(either, append=annotated.size)
    labels, guesses = (
        annotated.flat[either].astype(np.int64),
        predicted.flat[either].astype(np.int64),
    )
    # The run of the annotation that each of the finer runs is a part of.
    run = np.cumsum(begins.flat[either]) - 1
    right = np.bincount(run, pixels * (labels == guesses), len(runs)).astype(np.int64)
    edges = _edges(annotated), _edges(predicted)
    parts = (edges[0] & edges[1], *edges)
    at_edge = [np.add.reduceat(part.ravel(), either, dtype=np.int64) for part in parts]
    return ImageCounts(
        _confusion(labels, guesses, pixels, classes),
        _boundary(labels, guesses, at_edge, classes),
        _regions(annotated, runs, right),
    )


def _begins(labels: np.ndarray) -> np.ndarray:
    """Pixels ``(H, W)`` that differ from the one to the left, or have none: runs are few, pixels many."""
    begins = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    return begins


def _confusion(
    labels: np.ndarray, guesses: np.ndarray, pixels: np.ndarray, classes: int
) -> np.ndarray:
    known = labels != _NONE
    code = labels[known] * classes + guesses[known]
    counts = np.bincount(code, pixels[known], minlength=1).astype(np.int64)
    pairs = np.flatnonzero(counts)
    return np.column_stack([pairs // classes, pairs % classes, counts[pairs]])


def boundary_width(height: int, width: int) -> int:
    """Pixels from a region's edge that are its boundary, at least one."""
    return max(1, round(BOUNDARY * float(np.hypot(height, width))))


def _boundary(
    labels: np.ndarray, guesses: np.ndarray, at_edge: list[np.ndarray], classes: int
) -> np.ndarray:
    both, of_labels, of_guesses = at_edge
    both = both * (labels == guesses)
    known = labels != _NONE
    counts = np.stack(
        [
            np.bincount(values[known], weights[known], classes).astype(np.int64)
            for values, weights in ((labels, both), (labels, of_labels), (guesses, of_guesses))
        ]
    )
    present = np.flatnonzero(counts.any(0))
    return np.column_stack([present, counts[:, present].T])


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels ``(H, W)`` of a class with another one, or the image's edge, within the boundary's width.

    These are what an erosion of each class's mask by a square removes. A pixel of another class is
    within ``d`` steps where one that has it as a neighbour is within ``d - 1``.
    """
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=_NONE)
    # Outside the frame there is nothing that could be less or more than what is inside.
    neighbours = np.ones((3, 3), np.uint8)
    mixed = cv2.erode(framed, neighbours) != cv2.dilate(framed, neighbours)
    reach = 2 * boundary_width(*labels.shape) - 1
    sums = cv2.boxFilter(
        mixed[1:-1, 1:-1].astype(np.uint8),
        cv2.CV_32S,
        (reach, reach),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    return (sums > 0) & (labels != _NONE)


def _regions(annotated: np.ndarray, runs: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Regions connected over edges or corners; ``runs`` are first pixels, ``right`` counts of each."""
    width = annotated.shape[1]
    pixels = np.diff(runs, append=annotated.size)
    labels = annotated.flat[runs]
    _, region = connected_components(_touching(runs, runs + pixels - 1, labels, width))
    sizes = np.bincount(region, pixels).astype(np.int64)
    correct = np.bincount(region, right).astype(np.int64)
    of_region = np.empty(len(sizes), np.int64)
    of_region[region] = labels
    place = np.searchsorted(list(SIZES.values()), sizes, side='right')
    table = np.column_stack([of_region, place, sizes, correct])
    return table[of_region != _NONE]


def _touching(firsts: np.ndarray, lasts: np.ndarray, labels: np.ndarray, width: int) -> coo_array:
    """Which runs touch one of the same class in the next row, ``(n, n)``."""
    # Runs cover all pixels: those that touch a run from below follow each other.
    begin = np.searchsorted(firsts, firsts + width - (firsts % width > 0), side='right') - 1
    end = np.searchsorted(firsts, lasts + width + (lasts % width < width - 1), side='right') - 1
    in_last_row = firsts + width > lasts[-1]
    counts = np.where(in_last_row, 0, end - begin + 1)
    upper = np.repeat(np.arange(len(firsts)), counts)
    lower = np.arange(len(upper)) + np.repeat(begin - np.cumsum(counts) + counts, counts)
    same = labels[upper] == labels[lower]
    pairs = (np.ones(same.sum(), bool), (upper[same], lower[same]))
    return coo_array(pairs, shape=(len(firsts), len(firsts)))
