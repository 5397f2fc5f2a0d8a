"""Masks of single objects in COCO's forms: polygons, run lengths as lists or compressed; their areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import mul

import numpy as np
from pycocotools import mask as rle

Segmentation = Sequence[Sequence[float]] | Mapping


def compressed(code: Mapping) -> Mapping:
    """A run-length code in the form that pycocotools reads; lists of counts are compressed."""
    return rle.frPyObjects(code, *code['size']) if isinstance(code['counts'], list) else code


def as_json(code: Mapping) -> dict:
    """A compressed run-length code with text where pycocotools has bytes."""
    counts = code['counts']
    text = counts.decode('ascii') if isinstance(counts, bytes) else counts
    return {'size': [int(side) for side in code['size']], 'counts': text}


def encoded(segmentation: Segmentation, height: int, width: int) -> Mapping:
    """Polygons or a run-length code of an image of this size as one compressed code."""
    if isinstance(segmentation, Mapping):
        return compressed(segmentation)
    return rle.merge(rle.frPyObjects(segmentation, height, width))


def decoded(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """The same as pixels, ``(H, W)`` of bool."""
    return rle.decode(encoded(segmentation, height, width)).astype(bool)


def polygon_area(polygon: Sequence[float]) -> float:
    """Area of a polygon ``[x, y, x, y, ...]`` by the shoelace formula."""
    # Lists of numbers rather than arrays: most polygons are too short for these to be faster.
    x, y = polygon[0::2], polygon[1::2]
    return abs(sum(map(mul, x, [*y[1:], y[0]])) - sum(map(mul, y, [*x[1:], x[0]]))) / 2


def area_of(segmentation: Segmentation | None, box: Sequence[float]) -> float:
    """The area of an object in pixels: of its polygons or run-length code, else of its box.

    COCO's own files have the area of polygons, not the number of their pixels.
    """
    if isinstance(segmentation, Mapping):
        return float(rle.area(compressed(segmentation)))
    if segmentation:
        return float(sum(map(polygon_area, segmentation)))
    return float(box[2] * box[3])
