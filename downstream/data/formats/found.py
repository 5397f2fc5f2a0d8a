"""What a data set holds, whatever format it came in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

Color = tuple[int, int, int]
_Part = TypeVar('_Part')


@dataclass(frozen=True)
class Instances:
    """A part (training, validation, ...) of a detection set.

    Attributes:
        root: Folder that the images' ``file_name`` is relative to. Images are never copied.
        coco: A complete COCO dict: ``images`` with id, file_name, width, height (as loaded: an EXIF
            orientation is applied); ``annotations`` with id, image_id, category_id, bbox (x, y, width,
            height in pixels), area, iscrowd, and segmentation where there is one; ``categories``. All
            parts of a set have the same categories, in the order of its classes.
        file: A COCO file that holds exactly ``coco``; None if it was made or repaired in memory.
    """

    root: Path
    coco: dict
    file: Path | None = None


@dataclass(frozen=True)
class Masks:
    """A part of a segmentation set.

    Attributes:
        root: Folder that the paths of ``pairs`` are relative to.
        pairs: Image and mask; the mask is None where ``instances`` has the polygons of the image.
        values: Value of a pixel in the mask files -> class index, or 255 for unlabelled. Keys are
            colours (R, G, B) where masks are colour-coded. The value 255 is unlabelled unless it is
            listed; another value that is not listed is an error.
        instances: Polygons that are drawn as masks.
    """

    root: Path
    pairs: tuple[tuple[str, str | None], ...]
    values: dict[int, int] | dict[Color, int]
    instances: Instances | None = None

    def files(self) -> list[Path]:
        """The mask files, one for each image; none where ``instances`` has polygons."""
        return [self.root / mask for _, mask in self.pairs if mask is not None]


@dataclass(frozen=True)
class Found:
    """A data set.

    Attributes:
        format: ``'COCO'``, ``'YOLO'``, ``'Pascal VOC'``, ``'labelme'``, ``'VIA'``,
            ``'index masks'``, ``'binary masks'``, ``'colour masks'``, ``'Cityscapes'``.
        task: ``'detection'`` or ``'segmentation'``.
        classes: Their names; the place in this tuple is the index of a class.
        parts: ``'train'``, ``'val'``, ``'test'``, as far as given; ``'all'`` alone if the set has one
            part.
        notes: Decisions and repairs that the user must hear of, a sentence each.
    """

    format: str
    task: str
    classes: tuple[str, ...]
    parts: Mapping[str, Instances | Masks]
    notes: tuple[str, ...] = ()

    def with_notes(self, *notes: str) -> Found:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def detection_parts(self) -> dict[str, Instances]:
        """The parts of a set for detection; TypeError if it is for another task."""
        return {name: _of_type(part, Instances) for name, part in self.parts.items()}

    def segmentation_parts(self) -> dict[str, Masks]:
        """The parts of a set for segmentation; TypeError if it is for another task."""
        return {name: _of_type(part, Masks) for name, part in self.parts.items()}


@dataclass(frozen=True)
class PartCounts:
    """How much a part of a set holds.

    Attributes:
        images: Number of images.
        empty: Images without an object; 0 for masks, which are not opened.
        objects: Number of objects (boxes); 0 for masks.
        crowds: Objects that are a crowd.
        without_mask: Objects that are no crowd and have a box alone.
        per_class: Objects of each class that are no crowd, in the order of the classes.
    """

    images: int
    empty: int
    objects: int
    crowds: int
    without_mask: int
    per_class: dict[str, int]


def counts(found: Found) -> dict[str, PartCounts]:
    """Images and objects of every part of a set."""
    return {name: _counts(part, found.classes) for name, part in found.parts.items()}


def _of_type(part: object, kind: type[_Part]) -> _Part:
    if not isinstance(part, kind):
        raise TypeError(f'a part is {type(part).__name__}, not {kind.__name__}')
    return part


def _counts(part: Instances | Masks, classes: tuple[str, ...]) -> PartCounts:
    if isinstance(part, Masks):
        if part.instances is None:
            return PartCounts(len(part.pairs), 0, 0, 0, 0, {})
        part = part.instances
    coco = part.coco
    name_of = {category['id']: category['name'] for category in coco['categories']}
    singles = [one for one in coco['annotations'] if not one.get('iscrowd')]
    per_class = Counter(name_of[one['category_id']] for one in singles)
    with_objects = {one['image_id'] for one in coco['annotations']}
    return PartCounts(
        images=len(coco['images']),
        empty=sum(image['id'] not in with_objects for image in coco['images']),
        objects=len(coco['annotations']),
        crowds=len(coco['annotations']) - len(singles),
        without_mask=sum(not one.get('segmentation') for one in singles),
        per_class={name: per_class[name] for name in classes},
    )
