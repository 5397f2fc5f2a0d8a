"""COCO dicts, made object by object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from downstream.data.run_lengths import area_of, compressed

from .found import Instances
from .images import relative_names, sizes

Polygon = Sequence[float]
_ELLIPSE_CORNERS = 64


class InstancesBuilder:
    """Collects images and objects of a part of a set.

    Args:
        root: Folder that the names of images are relative to.
        images: COCO's entries, with ids from 1.
        classes: Category ``k + 1`` is class ``k``.
    """

    def __init__(self, root: Path, images: list[dict], classes: Sequence[str]) -> None:
        self.root, self.images = root, images
        self.categories = categories_of(classes)
        self.annotations: list[dict] = []

    def add(
        self,
        image: int,
        class_index: int,
        bbox: Sequence[float],
        segmentation: list[Polygon] | dict | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object.

        Args:
            image: Place of its image in the list of paths.
            class_index: Place of its class in the list of classes.
            bbox: x, y, width, height in pixels.
            segmentation: Polygons or a run-length code, as in COCO.
            crowd: Whether it is excluded from the loss and the figures.
        """
        annotation = {
            'id': len(self.annotations) + 1,
            'image_id': image + 1,
            'category_id': class_index + 1,
            'bbox': list(bbox),
            'area': area_of(segmentation, bbox),
            'iscrowd': int(crowd),
        }
        if segmentation:
            annotation['segmentation'] = segmentation
        self.annotations.append(annotation)

    def size(self, image: int) -> tuple[int, int]:
        """Width and height of an image as it is loaded."""
        entry = self.images[image]
        return entry['width'], entry['height']

    def result(self) -> Instances:
        """What was collected."""
        return Instances(
            self.root,
            {
                'images': self.images,
                'annotations': self.annotations,
                'categories': self.categories,
            },
        )


def image_entries(paths: Sequence[Path]) -> tuple[Path, list[dict]]:
    """The folder that contains all ``paths``, and COCO's entries of these images, sizes read from them.

    Raises:
        DataError: An image cannot be read.
    """
    root, names = relative_names(paths) if paths else (Path(), [])
    return root, [
        {'id': i + 1, 'file_name': name, 'width': width, 'height': height}
        for i, (name, (width, height)) in enumerate(zip(names, sizes(paths)))
    ]


def categories_of(classes: Sequence[str]) -> list[dict]:
    """COCO's categories for ``classes``, with ids from 1."""
    return [{'id': i + 1, 'name': name} for i, name in enumerate(classes)]


def box_of(segmentation: list[Polygon] | dict) -> list[float]:
    """The box around polygons or a run-length code: x, y, width, height in pixels."""
    if isinstance(segmentation, dict):
        return [float(value) for value in rle.toBbox(compressed(segmentation))]
    x = [value for polygon in segmentation for value in polygon[0::2]]
    y = [value for polygon in segmentation for value in polygon[1::2]]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Polygon:
    """An ellipse as a polygon.

    Args:
        x: Of its centre, in pixels.
        y: The same.
        rx: Its first radius in pixels.
        ry: Its second one.
        angle: Of the first radius to the x-axis, clockwise as y points down, in radians.
    """
    angles = np.arange(_ELLIPSE_CORNERS) * 2 * np.pi / _ELLIPSE_CORNERS
    along, across = rx * np.cos(angles), ry * np.sin(angles)
    corners = np.stack(
        [
            x + along * math.cos(angle) - across * math.sin(angle),
            y + along * math.sin(angle) + across * math.cos(angle),
        ],
        axis=1,
    )
    return corners.flatten().tolist()
