"""What a test of segmentation means: confusion, boundaries, sizes of regions, the worst pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kept import KeptCounts
from .kept.region_counts import SIZES


@dataclass(frozen=True)
class SizeFigures:
    """The annotated regions of one range of sizes."""

    regions: int
    pixels: int
    right: float | None
    """Percent of their pixels that are predicted as their class."""
    found: float | None
    """Percent of the regions with half their pixels or more so predicted."""
    right_per_class: dict[str, float | None]


@dataclass(frozen=True)
class Segmentation:
    """Figures of a test, in percent; None for what does not occur."""

    confusion: np.ndarray
    """``(C, C)`` of int64, pixels: annotated class, predicted class."""
    iou: dict[str, float | None]
    accuracy: dict[str, float | None]
    boundary_iou: dict[str, float | None]
    """Boundary IoU (Cheng et al. 2021) of a class's mask, boundaries as wide as 2 % of the diagonal,
    summed over images as IoU is."""
    mean_iou: float | None
    mean_boundary_iou: float | None
    by_size: dict[str, SizeFigures]
    """``small`` (below 32^2 pixels), ``medium``, ``large`` (from 96^2): connected annotated regions."""


def analyse(counts: KeptCounts) -> Segmentation:
    """The figures of all images together."""
    confusion = confusion_of(counts)
    right, annotated = confusion.diagonal(), confusion.sum(1)
    iou = _percent(right, annotated + confusion.sum(0) - right)
    both, of_annotation, of_prediction = (
        np.bincount(counts.boundary[:, 1], counts.boundary[:, column], len(counts.classes))
        for column in (2, 3, 4)
    )
    boundary = _percent(both, of_annotation + of_prediction - both)
    return Segmentation(
        confusion=confusion,
        iou=_named(counts, iou),
        accuracy=_named(counts, _percent(right, annotated)),
        boundary_iou=_named(counts, boundary),
        mean_iou=_mean(iou),
        mean_boundary_iou=_mean(boundary),
        by_size={
            name: _of_size(counts, counts.regions[counts.regions[:, 2] == place])
            for place, name in enumerate(SIZES)
        },
    )


def confusion_of(counts: KeptCounts) -> np.ndarray:
    """``(C, C)`` of int64, pixels of all images: annotated class, predicted class."""
    total = np.zeros((len(counts.classes), len(counts.classes)), np.int64)
    np.add.at(total, (counts.confusion[:, 1], counts.confusion[:, 2]), counts.confusion[:, 3])
    return total


def per_image(counts: KeptCounts) -> np.ndarray:
    """``(3, N, C)`` of int64: pixels that are right, annotated and predicted."""
    image, annotated, predicted, pixels = counts.confusion.T
    parts = np.zeros((3, len(counts.names), len(counts.classes)), np.int64)
    right = annotated == predicted
    np.add.at(parts[0], (image[right], annotated[right]), pixels[right])
    np.add.at(parts[1], (image, annotated), pixels)
    np.add.at(parts[2], (image, predicted), pixels)
    return parts


def image_scores(counts: KeptCounts) -> np.ndarray:
    """IoU ``(N, C)`` in percent of each class on each image; NaN where it does not occur there."""
    right, annotated, predicted = per_image(counts)
    return _percent(right, annotated + predicted - right)


def mean_scores(counts: KeptCounts) -> np.ndarray:
    """``(N,)``, mean IoU of each image over the classes that occur in it; NaN without annotation."""
    scores = image_scores(counts)
    known = np.isfinite(scores)
    return np.where(known, scores, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def worst_images(counts: KeptCounts, label: int | None = None) -> np.ndarray:
    """Places of images, the worst first.

    Args:
        counts: Of a test.
        label: Rank by the pixels that this class has too many or too few, which is what costs it IoU.
            None: by the mean IoU of an image. Images without errors, or without annotation, are left out.
    """
    if label is None:
        scores = mean_scores(counts)
        return _ascending(np.where(scores < 100, scores, np.nan))
    right, annotated, predicted = per_image(counts)[..., label]
    wrong = annotated + predicted - 2 * right
    return _ascending(np.where(wrong > 0, -wrong, np.nan))


def _of_size(counts: KeptCounts, regions: np.ndarray) -> SizeFigures:
    label, pixels, right = regions[:, 1], regions[:, 3], regions[:, 4]
    count = len(counts.classes)
    per_class = _percent(np.bincount(label, right, count), np.bincount(label, pixels, count))
    total, found = int(pixels.sum()), int((2 * right >= pixels).sum())
    return SizeFigures(
        regions=len(regions),
        pixels=total,
        right=100 * int(right.sum()) / total if total else None,
        found=100 * found / len(regions) if len(regions) else None,
        right_per_class=_named(counts, per_class),
    )


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide='ignore', invalid='ignore'):
        return 100 * part / np.asarray(whole, np.float64)


def _named(counts: KeptCounts, figures: np.ndarray) -> dict[str, float | None]:
    return {
        name: None if np.isnan(figure) else float(figure)
        for name, figure in zip(counts.classes, figures)
    }


def _mean(figures: np.ndarray) -> float | None:
    known = figures[np.isfinite(figures)]
    return float(known.mean()) if known.size else None


def _ascending(keys: np.ndarray) -> np.ndarray:
    order = np.argsort(keys, kind='stable')
    return order[np.isfinite(keys[order])]
