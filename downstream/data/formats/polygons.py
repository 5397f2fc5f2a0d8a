"""Polygons and run-length codes as masks for semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from backbones.errors import DataError
from downstream.data.run_lengths import decoded

from .found import Found, Instances, Masks

BACKGROUND = ('background', '_background_')


def as_masks(found: Found) -> Found:
    """A detection set as a segmentation set: its polygons are drawn as masks when they are written.

    Pixels without an object are the class background, which is added as class 0 unless the set has it.

    Raises:
        DataError: Objects have boxes alone.
    """
    boxes_are_areas = found.format == 'labelme'
    total = without = 0
    instances = found.detection_parts()
    for part in instances.values():
        total += len(part.coco['annotations'])
        without += sum(not one.get('segmentation') for one in part.coco['annotations'])
    if without and not boxes_are_areas:
        raise DataError(
            f'{without} of {total} objects have a box alone; segmentation needs polygons or masks. '
            'Train a detector on boxes, or remove these objects.'
        )
    classes, notes = found.classes, found.notes
    if not set(BACKGROUND) & set(classes):
        classes = ('background', *classes)
    notes = (
        *notes,
        'polygons are drawn as masks, small objects over large ones; a pixel without an object is '
        'background',
    )
    if without:
        notes = (*notes, f'{without} rectangles are drawn as areas')
    values = {k: k for k in range(len(classes))}
    parts = {
        name: Masks(
            part.root,
            tuple((image['file_name'], None) for image in part.coco['images']),
            values,
            part,
        )
        for name, part in instances.items()
    }
    return replace(found, task='segmentation', classes=classes, parts=parts, notes=notes)


def class_of_categories(instances: Instances, classes: Sequence[str]) -> dict[int, int]:
    """Category id -> class index."""
    return {c['id']: classes.index(c['name']) for c in instances.coco['categories']}


def draw(
    image: Mapping, annotations: Sequence[Mapping], classes: Sequence[str], class_of: Mapping
) -> np.ndarray:
    """Annotations of an image as a mask of class indices, ``(H, W)`` of uint8.

    Crowds are drawn first, then objects from large to small: small ones lie on or in front of large
    ones. Pixels are those of pycocotools.

    Args:
        image: COCO's entry, with ``width`` and ``height``.
        annotations: Its objects.
        classes: Names of the classes; background is one of them.
        class_of: Category id -> class index.
    """
    height, width = image['height'], image['width']
    background = next(classes.index(name) for name in BACKGROUND if name in classes)
    mask = np.full((height, width), background, np.uint8)
    order = sorted(annotations, key=lambda one: (not one.get('iscrowd'), -one['area']))
    for one in order:
        mask[_pixels(one, height, width)] = class_of[one['category_id']]
    return mask


def _pixels(annotation: Mapping, height: int, width: int) -> np.ndarray:
    segmentation = annotation.get('segmentation')
    if not segmentation:
        x, y, w, h = annotation['bbox']
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return decoded(segmentation, height, width)
