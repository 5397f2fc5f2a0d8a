"""COCO dicts, made object by object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pycocotools import mask as rle

from backbones.errors import DataError
from downstream.data.run_lengths import compressed

from .found import Instances
from .images import relative_names, sizes

Polygon = Sequence[float]


class InstancesBuilder:
    """Collects images and objects of a part of a set.

    Args:
        paths: The images; sizes are read from them.
        classes: Category ``k + 1`` is class ``k``.

    Raises:
        DataError: An image cannot be read.
    """

    def __init__(self, paths: Sequence[Path], classes: Sequence[str]) -> None:
        self.root, names = relative_names(paths) if paths else (Path(), [])
        self.images = [
            {'id': i + 1, 'file_name': name, 'width': width, 'height': height}
            for i, (name, (width, height)) in enumerate(zip(names, sizes(paths)))
        ]
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
            'area': area(segmentation, bbox),
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


def categories_of(classes: Sequence[str]) -> list[dict]:
    """COCO's categories for ``classes``, with ids from 1."""
    return [{'id': i + 1, 'name': name} for i, name in enumerate(classes)]


def area(segmentation: list[Polygon] | dict | None, bbox: Sequence[float]) -> float:
    """The area of an object in pixels: of its polygons or run-length code, else of its box."""
    if isinstance(segmentation, dict):
        return float(rle.area(compressed(segmentation)))
    if segmentation:
        return sum(_polygon_area(polygon) for polygon in segmentation)
    return float(bbox[2] * bbox[3])


def _polygon_area(polygon: Polygon) -> float:
    """The shoelace formula."""
    x, y = polygon[0::2], polygon[1::2]
    twice = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))
    return abs(twice) / 2


def box_of(segmentation: list[Polygon] | dict) -> list[float]:
    """The box around polygons or a run-length code: x, y, width, height in pixels."""
    if isinstance(segmentation, dict):
        return [float(value) for value in rle.toBbox(compressed(segmentation))]
    x = [value for polygon in segmentation for value in polygon[0::2]]
    y = [value for polygon in segmentation for value in polygon[1::2]]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def require_images(format_name: str, source: Path, paths: Sequence[Path]) -> None:
    """DataError unless there is an image."""
    if not paths:
        raise DataError(f'{source}: {format_name} annotations, but no images.')
