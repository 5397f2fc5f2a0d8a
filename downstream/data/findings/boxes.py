"""Boxes of objects: their form, place and size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .finding import Finding

# A box that ends further outside than rounding of an annotation tool explains.
_MARGIN_PX, _MARGIN = 3.0, 0.02
# So many boxes and such a share of them, before a whole file counts as xyxy.
_MIN_BOXES, _MIN_SHARE = 3, 0.2
_THIN = 30.0
_SAME_IOU = 0.95


def box_findings(
    file: str, content: Mapping[str, Sequence[Mapping]], folder: Path
) -> list[Finding]:
    """What is wrong with the boxes of a COCO file.

    Args:
        file: The annotation file, for messages.
        content: Its sound records.
        folder: Where its images are.
    """
    annotations = content['annotations']
    if not annotations:
        return []
    images = {image['id']: image for image in content['images']}
    boxes = np.array([one['bbox'] for one in annotations], float)
    sizes = np.array(
        [[images[one['image_id']][key] for key in ('width', 'height')] for one in annotations],
        float,
    )
    whole = list(_whole_file(file, boxes, sizes))
    found = whole or list(_single(file, annotations, boxes, sizes))
    found += _pairs(file, annotations, boxes)
    by_id = {f'annotation {one["id"]!r}': one for one in annotations}
    return [_pictured(finding, by_id, images, folder) for finding in found]


def _pictured(finding: Finding, by_id: dict, images: dict, folder: Path) -> Finding:
    annotation = by_id.get(finding.record)
    if annotation is None:
        return finding
    image = folder / images[annotation['image_id']]['file_name']
    fields = {**vars(finding), 'image': image}
    if not finding.boxes:
        fields['boxes'] = (tuple(annotation['bbox']),)
    return Finding(**fields)


def _whole_file(file: str, boxes: np.ndarray, sizes: np.ndarray) -> Iterator[Finding]:
    """Signs that all boxes of a file are in another form than x, y, width, height in pixels."""
    outside = _ends_outside(boxes, sizes)
    as_corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & ~_ends_outside(
        np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]), sizes
    )
    count, share = len(boxes), outside.mean()
    if count >= _MIN_BOXES and share >= _MIN_SHARE and as_corners.all():
        detail = (
            f'has {outside.sum()} of {count} boxes that end outside of their image, and none as '
            'corners (x1, y1, x2, y2): they look like corners'
        )
        yield Finding('box-xyxy', file, detail)
    elif count >= _MIN_BOXES and (boxes >= 0).all() and (boxes <= 1).all() and (sizes > 2).all():
        detail = f'has {count} boxes whose numbers are all between 0 and 1: fractions of the image'
        yield Finding('box-fractions', file, detail)


def _ends_outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether a box ``(x, y, width, height)`` begins or ends clearly outside of its image."""
    margin = np.maximum(_MARGIN_PX, _MARGIN * sizes)
    ends = boxes[:, :2] + boxes[:, 2:]
    return ((boxes[:, :2] < -margin) | (ends > sizes + margin)).any(1)


def _single(
    file: str, annotations: Sequence[Mapping], boxes: np.ndarray, sizes: np.ndarray
) -> Iterator[Finding]:
    """What is wrong with single boxes; the first reason only."""
    areas = np.array([one['area'] for one in annotations], float)
    ends = boxes[:, :2] + boxes[:, 2:]
    seen = np.minimum(ends, sizes) - np.maximum(boxes[:, :2], 0)
    sides = np.sort(np.maximum(boxes[:, 2:], 1e-9), axis=1)
    reasons = np.select(
        [
            (boxes[:, 2:] < 1).any(1) | (areas <= 0),
            (seen <= 0).any(1),
            _ends_outside(boxes, sizes),
            sides[:, 1] > _THIN * sides[:, 0],
        ],
        [1, 2, 3, 4],
        0,
    )
    kinds = ('box-flat', 'box-outside', 'box-sticks-out', 'box-thin')
    for i in np.flatnonzero(reasons):
        x, y, width, height = (f'{value:g}' for value in boxes[i])
        box = f'bbox [{x}, {y}, {width}, {height}]'
        size = f'image of {sizes[i][0]:g} x {sizes[i][1]:g}'
        detail = {
            1: f'has {box} and area {areas[i]:g}',
            2: f'has {box} outside of its {size}',
            3: f'has {box} in an {size}',
            4: f'has {box}, {sides[i][1] / sides[i][0]:.0f} times as long as wide',
        }[int(reasons[i])]
        yield Finding(kinds[reasons[i] - 1], file, detail, f'annotation {annotations[i]["id"]!r}')


def _pairs(file: str, annotations: Sequence[Mapping], boxes: np.ndarray) -> Iterator[Finding]:
    """Boxes of an image that are there twice, of one class or of two."""
    of_image: dict = defaultdict(list)
    for i, annotation in enumerate(annotations):
        if not annotation.get('iscrowd') and (boxes[i, 2:] > 0).all():
            of_image[annotation['image_id']].append(i)
    for members in of_image.values():
        places = np.array(members)
        first, second = np.nonzero(np.triu(_overlaps(boxes[places]) > _SAME_IOU, 1))
        second, keep = np.unique(second, return_index=True)
        for i, j in zip(places[first[keep]], places[second]):
            one, other = annotations[i], annotations[j]
            same = one['category_id'] == other['category_id']
            detail = f'has the box of annotation {one["id"]!r}' + (
                '' if same else ' and another class'
            )
            kind = 'box-twice' if same else 'box-two-classes'
            yield Finding(kind, file, detail, f'annotation {other["id"]!r}')


def _overlaps(boxes: np.ndarray) -> np.ndarray:
    """IoU ``(n, n)`` of boxes ``(n, 4)``: x, y, width, height."""
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    low = np.maximum(starts[:, None], starts)
    high = np.minimum(ends[:, None], ends)
    shared = np.clip(high - low, 0, None).prod(2)
    areas = boxes[:, 2:].prod(1)
    return shared / (areas[:, None] + areas - shared)


def trained_factor(size: tuple[int, int], scale: tuple[int, int] | None) -> float:
    """By what an image of ``size`` (width, height) is enlarged to be trained within ``scale``."""
    if scale is None:
        return 1.0
    return min(max(scale) / max(size), min(scale) / min(size))


def small_findings(
    file: str,
    content: Mapping[str, Sequence[Mapping]],
    folder: Path,
    scale: tuple[int, int] | None,
    stride: int,
) -> list[Finding]:
    """Objects that are smaller than a cell of the finest feature map at the trained scale.

    Args:
        file: The annotation file, for messages.
        content: Its sound records.
        folder: Where its images are.
        scale: Long and short side that images are fitted into, the largest that is trained; None: they
            are trained at their own size.
        stride: Of the finest feature map.
    """
    images = {image['id']: image for image in content['images']}
    found = []
    for annotation in content['annotations']:
        image = images[annotation['image_id']]
        factor = trained_factor((image['width'], image['height']), scale)
        x, y, width, height = annotation['bbox']
        if width < 1 or height < 1 or annotation.get('iscrowd'):
            continue
        side = (width * height) ** 0.5 * factor
        if side < stride:
            detail = (
                f'is {width:.3g} x {height:.3g} px, {width * factor:.2g} x {height * factor:.2g} when '
                f'trained; a cell of the finest feature map has {stride} px'
            )
            record = f'annotation {annotation["id"]!r}'
            path = folder / image['file_name']
            found.append(Finding('box-small', file, detail, record, path, ((x, y, width, height),)))
    return found
