"""Images and objects of a part, as the writers take them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES
from downstream.data.formats.found import Instances
from downstream.data.formats.instances import Polygon
from downstream.data.run_lengths import compressed


@dataclass(frozen=True)
class ImageObjects:
    """An image and its objects.

    Attributes:
        source: Where it is.
        name: A name for it in one folder, unique among the images of all parts.
        width: In pixels, as it is loaded.
        height: The same.
        objects: COCO's annotations.
    """

    source: Path
    name: str
    width: int
    height: int
    objects: list[dict]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem


def images_of(part: Instances, part_name: str) -> Iterator[ImageObjects]:
    """Every image of a part with its objects."""
    objects: dict[int, list[dict]] = {}
    for annotation in part.coco['annotations']:
        objects.setdefault(annotation['image_id'], []).append(annotation)
    names = flat_names([image['file_name'] for image in part.coco['images']])
    bar = tqdm(
        zip(part.coco['images'], names),
        desc=f'writing {part_name}',
        total=len(names),
        disable=len(names) < FULL_FILES,
    )
    for image, name in bar:
        yield ImageObjects(
            part.root / image['file_name'],
            name,
            image['width'],
            image['height'],
            objects.get(image['id'], []),
        )


def flat_names(names: list[str]) -> list[str]:
    """Names for files of several folders in one; their stems differ.

    Raises:
        DataError: Two differ in their suffix alone.
    """
    plain = [PurePosixPath(name).name for name in names]
    if len({PurePosixPath(name).stem for name in plain}) < len(names):
        plain = [name.replace('/', '_') for name in names]
        stem, count = Counter(PurePosixPath(name).stem for name in plain).most_common(1)[0]
        if count > 1:
            raise DataError(
                f'{count} images have the stem {stem}, and labels go by it; rename one.'
            )
    return plain


def place_image(source: Path, target: Path, copy: bool) -> None:
    """A link to an image at ``target``, or a copy of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(os.path.abspath(source))


def polygons_of(annotation: dict) -> list[Polygon]:
    """Polygons of an object; a run-length code is traced, which moves its outline by half a pixel."""
    segmentation = annotation.get('segmentation') or []
    if not isinstance(segmentation, dict):
        return segmentation
    pixels = np.ascontiguousarray(rle.decode(compressed(segmentation)))
    contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.flatten().astype(float).tolist() for contour in contours if len(contour) >= 3]


def classes_of_categories(part: Instances) -> dict[int, int]:
    """Category id -> place in the list of categories."""
    return {category['id']: k for k, category in enumerate(part.coco['categories'])}
