"""Masks of single objects in COCO's forms: polygons, run lengths as lists or compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as rle

Segmentation = Sequence[Sequence[float]] | Mapping


def compressed(code: Mapping) -> Mapping:
    """A run-length code in the form that pycocotools reads; lists of counts are compressed."""
    return rle.frPyObjects(code, *code['size']) if isinstance(code['counts'], list) else code


def encoded(segmentation: Segmentation, height: int, width: int) -> Mapping:
    """Polygons or a run-length code of an image of this size as one compressed code."""
    if isinstance(segmentation, Mapping):
        return compressed(segmentation)
    return rle.merge(rle.frPyObjects(segmentation, height, width))


def decoded(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """The same as pixels, ``(H, W)`` of bool."""
    return rle.decode(encoded(segmentation, height, width)).astype(bool)
