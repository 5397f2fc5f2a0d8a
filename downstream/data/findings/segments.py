"""Masks of single objects: polygons and run lengths of COCO annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from numbers import Real
from pathlib import Path

import numpy as np

from .finding import Box, Finding

_MARGIN_PX, _MARGIN = 3.0, 0.02
_MIN_IOU = 0.5
_MIN_SIDE = 8.0


def segment_findings(
    file: str, content: Mapping[str, Sequence[Mapping]], folder: Path
) -> list[Finding]:
    """What is wrong with the masks of a COCO file.

    A file without any mask is one of boxes, of which nothing is said.

    Args:
        file: The annotation file, for messages.
        content: Its sound records.
        folder: Where its images are.
    """
    images = {image['id']: image for image in content['images']}
    with_mask = sum(bool(one.get('segmentation')) for one in content['annotations'])
    found = []
    for annotation in content['annotations']:
        image = images[annotation['image_id']]
        segmentation = annotation.get('segmentation')
        if segmentation:
            reasons = _reasons(segmentation, annotation['bbox'], image)
        elif with_mask:
            total = len(content['annotations'])
            reasons = [('segment-missing', f'has no mask; {with_mask} of {total} have one')]
        else:
            reasons = []
        for kind, detail in reasons:
            path = folder / image['file_name']
            box = tuple(annotation['bbox'])
            found.append(
                Finding(kind, file, detail, f'annotation {annotation["id"]!r}', path, (box,))
            )
    return found


def _reasons(segmentation: object, box: Box, image: Mapping) -> Iterator[tuple[str, str]]:
    """Kind and detail of what is wrong with a mask."""
    problem = _form(segmentation, image)
    if problem:
        yield 'segment-form', problem
    elif isinstance(segmentation, list):
        points = [np.reshape(polygon, (-1, 2)).astype(float) for polygon in segmentation]
        flat = [len(p) for p in points if len(p) < 3 or _polygon_area(p) == 0]
        if flat:
            yield 'segment-flat', f'has a polygon of {flat[0]} points without area'
        every = np.concatenate(points)
        size = np.array([image['width'], image['height']], float)
        margin = np.maximum(_MARGIN_PX, _MARGIN * size)
        if (every < -margin).any() or (every > size + margin).any():
            low, high = every.min(0), every.max(0)
            yield (
                'segment-outside',
                f'has polygons from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) in an image '
                f'of {size[0]:g} x {size[1]:g}',
            )
        around = (*every.min(0), *(every.max(0) - every.min(0)))
        # A polygon without area says nothing of its box, and a small one is a matter of rounding.
        if not flat and min(around[2:]) >= _MIN_SIDE and _iou(around, box) < _MIN_IOU:
            shown = ', '.join(f'{v:g}' for v in around)
            yield 'segment-box', f'has bbox {list(box)}, but its mask is in [{shown}]'


def _form(segmentation: object, image: Mapping) -> str | None:
    """Why pycocotools could not read a mask, or would read another one than is meant."""
    if isinstance(segmentation, Mapping):
        size, counts = segmentation.get('size'), segmentation.get('counts')
        if list(size or ()) != [image['height'], image['width']]:
            return (
                f'has run lengths of size {size}; those of its image are '
                f'[{image["height"]}, {image["width"]}], height first'
            )
        if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            return f'has run lengths of {sum(counts)} pixels; its image has {size[0] * size[1]}'
        return None if isinstance(counts, (str, bytes, list)) else 'has run lengths without counts'
    if not isinstance(segmentation, list):
        return (
            f'has a segmentation of type {type(segmentation).__name__}, not polygons or run lengths'
        )
    if all(isinstance(value, Real) for value in segmentation):
        return 'has one list of numbers as segmentation; it must be a list of polygons'
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return 'has something else than polygons in its segmentation'
    if any(len(polygon) % 2 for polygon in segmentation):
        return 'has a polygon with an odd number of coordinates'
    if any(not polygon for polygon in segmentation):
        return 'has an empty polygon'
    if not all(isinstance(value, Real) for value in chain.from_iterable(segmentation)):
        return 'has a polygon with something else than numbers (pairs of points must be x, y, x, y, ...)'
    return None


def _polygon_area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(np.add(one[:2], one[2:]), np.add(other[:2], other[2:]))
    shared = np.clip(high - low, 0, None).prod()
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared + 1e-9))
