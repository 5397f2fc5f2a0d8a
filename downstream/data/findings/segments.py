"""Masks of single objects: polygons and run lengths of COCO annotations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from downstream.data.run_lengths import polygon_area

from .finding import Box, Finding

_MARGIN_PX, _MARGIN = 3.0, 0.02
_MIN_IOU = 0.5
_MIN_SIDE = 8.0
_FLAT = 1e-6


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
        reasons: Iterable[tuple[str, str]] = []
        if segmentation:
            reasons = _reasons(segmentation, annotation['bbox'], image)
        elif with_mask:
            total = len(content['annotations'])
            reasons = [('segment-missing', f'has no mask; {with_mask} of {total} have one')]
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
        flat = [len(p) // 2 for p in segmentation if len(p) < 6 or polygon_area(p) < _FLAT]
        if flat:
            yield 'segment-flat', f'has a polygon of {flat[0]} points without area'
        left, right = _extent([polygon[0::2] for polygon in segmentation])
        top, bottom = _extent([polygon[1::2] for polygon in segmentation])
        width, height = image['width'], image['height']
        if not (_within(left, right, width) and _within(top, bottom, height)):
            yield (
                'segment-outside',
                f'has polygons from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) in an image of '
                f'{width} x {height}',
            )
        around = (left, top, right - left, bottom - top)
        # A polygon without area says nothing of its box, and a small one is a matter of rounding.
        if not flat and min(around[2:]) >= _MIN_SIDE and _iou(around, box) < _MIN_IOU:
            shown = ', '.join(f'{value:g}' for value in around)
            yield 'segment-box', f'has bbox {list(box)}, but its mask is in [{shown}]'


def _extent(coordinates: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, coordinates)), max(map(max, coordinates))


def _within(low: float, high: float, size: float) -> bool:
    margin = max(_MARGIN_PX, _MARGIN * size)
    return low >= -margin and high <= size + margin


def _form(segmentation: object, image: Mapping) -> str | None:
    """Why pycocotools could not read a mask, or would read another one than is meant."""
    if isinstance(segmentation, Mapping):
        size, counts = segmentation.get('size'), segmentation.get('counts')
        if list(size or ()) != [image['height'], image['width']]:
            return (
                f'has run lengths of size {size}; those of its image are '
                f'[{image["height"]}, {image["width"]}], height first'
            )
        pixels = image['height'] * image['width']
        if isinstance(counts, list) and sum(counts) != pixels:
            return f'has run lengths of {sum(counts)} pixels; its image has {pixels}'
        return None if isinstance(counts, (str, bytes, list)) else 'has run lengths without counts'
    if not isinstance(segmentation, list):
        return (
            f'has a segmentation of type {type(segmentation).__name__}, not polygons or run lengths'
        )
    if _are_numbers(segmentation):
        return 'has one list of numbers as segmentation; it must be a list of polygons'
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return 'has something else than polygons in its segmentation'
    if any(len(polygon) % 2 for polygon in segmentation):
        return 'has a polygon with an odd number of coordinates'
    if any(not polygon for polygon in segmentation):
        return 'has an empty polygon'
    if not all(map(_are_numbers, segmentation)):
        return 'has a polygon with something else than numbers (pairs of points must be x, y, x, y, ...)'
    return None


def _are_numbers(values: Sequence) -> bool:
    return set(map(type, values)) <= {int, float}


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes: x, y, width, height."""
    shared = 1.0
    for start, size in ((0, 2), (1, 3)):
        low = max(one[start], other[start])
        high = min(one[start] + one[size], other[start] + other[size])
        shared *= max(0.0, high - low)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0
