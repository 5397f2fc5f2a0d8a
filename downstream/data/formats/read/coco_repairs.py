"""What is repaired in COCO annotations without guessing, and what is refused."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections import Counter
from dataclasses import replace
from pathlib import Path

from backbones.errors import DataError
from downstream.data import json_files
from downstream.data.files import shortened
from downstream.data.findings import completion
from downstream.data.formats.found import Instances
from downstream.data.formats.instances import box_of

_COMPLETED = {
    'id-missing': 'missing ids of annotations numbered',
    'id-repeated': 'ids of annotations that repeat: numbered anew',
    'id-odd': "ids of annotations that are no numbers above 0; COCO's evaluation takes a match for a "
    'miss: numbered anew',
    'area-missing': 'missing areas computed',
    'crowd-missing': 'missing iscrowd is 0',
}
_NO_CLASS = ('__ignore__', '_background_')


class Repairs:
    """Counts what was changed in annotations, and says it once for each kind."""

    def __init__(self) -> None:
        self.count = 0
        self._said: list[str] = []
        self._kinds: Counter[tuple[Path, str]] = Counter()

    def say(self, note: str) -> None:
        """A decision that changes no annotations."""
        if note not in self._said:
            self._said.append(note)

    def changed(self, path: Path, what: str) -> None:
        """One more change of the kind ``what`` in the content of ``path``."""
        self.count += 1
        self._kinds[path, what] += 1

    def notes(self) -> tuple[str, ...]:
        """A sentence for each decision and each kind of change."""
        return (*self._said, *(f'{path}: {what} ({n})' for (path, what), n in self._kinds.items()))


def read_coco(path: Path, repairs: Repairs) -> dict:
    """The COCO dict in a file.

    Raises:
        DataError: It is no JSON, is cut off, or is no COCO dict.
    """
    content = json_files.read_coco(path, bom=True)
    with open(path, 'rb') as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            repairs.changed(path, 'the byte-order mark, which mmdet does not read, left out')
    for key in json_files.LISTS:
        for entry in content[key]:
            if not isinstance(entry, dict):
                raise DataError(f'{path}: {entry!r:.100} in {key} is no JSON object.')
    if not content['images']:
        raise DataError(f'{path} lists no images.')
    return content


def repair(path: Path, content: dict, repairs: Repairs) -> None:
    """Complete ``content`` in place.

    Raises:
        DataError: It contradicts itself.
    """
    _repair_categories(path, content, repairs)
    new_ids = _repair_image_ids(path, content['images'], repairs)
    _repair_category_ids(path, content, repairs)
    for annotation in content['annotations']:
        _repair_image_id(path, annotation, new_ids, repairs)
        _repair_box(path, annotation, repairs)
    for kind, *_ in completion.number(content['annotations']):
        repairs.changed(path, _COMPLETED[kind])


def _number(value: object) -> object:
    """An id as a whole number, if it is one: ``'12'`` and ``12.0`` are 12."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _repair_categories(path: Path, content: dict, repairs: Repairs) -> None:
    for category in content['categories']:
        if 'id' not in category or 'name' not in category:
            raise DataError(f'{path}: a category lacks its id or name: {category!r:.200}')
        if _number(category['id']) is not category['id']:
            category['id'] = _number(category['id'])
            repairs.changed(path, 'ids of categories that were texts are numbers')
        name = str(category['name']).strip()
        if name != category['name']:
            category['name'] = name
            repairs.changed(path, 'names of categories without spaces around them')
    ids = Counter(category['id'] for category in content['categories'])
    twice = [key for key, count in ids.items() if count > 1]
    if twice:
        raise DataError(f'{path}: {twice[0]!r} is the id of {ids[twice[0]]} categories.')


def _repair_category_ids(path: Path, content: dict, repairs: Repairs) -> None:
    """Categories of annotations are known; categories of one name become one."""
    first_of_name: dict[str, object] = {}
    known = {}
    for category in content['categories']:
        known[category['id']] = first_of_name.setdefault(category['name'], category['id'])
    used = set()
    for annotation in content['annotations']:
        stated = annotation.get('category_id')
        key = stated if stated in known else _number(stated)
        if key not in known:
            raise DataError(
                f'{path}: annotation {annotation.get("id")!r} has category {stated!r}, which '
                f'the file does not list; it has {shortened(map(repr, known))}.'
            )
        if known[key] != stated or type(known[key]) is not type(stated):
            annotation['category_id'] = known[key]
            repairs.changed(path, 'ids of categories in annotations')
        used.add(known[key])
    merged = [c for c in content['categories'] if known[c['id']] == c['id']]
    if len(merged) < len(content['categories']):
        repairs.changed(path, 'categories of the same name are one')
    kept = [c for c in merged if c['id'] in used or not _is_no_class(c, merged)]
    if len(kept) < len(merged):
        left_out = ', '.join(c['name'] for c in merged if c not in kept)
        repairs.changed(path, f'{left_out} names no class and has no objects: left out')
    content['categories'] = kept


def _is_no_class(category: dict, categories: list[dict]) -> bool:
    """Whether a category without objects is the common parent that Roboflow writes, or background."""
    others = [c for c in categories if c is not category]
    parent = bool(others) and all(c.get('supercategory') == category['name'] for c in others)
    return parent or category['name'] in _NO_CLASS


def _repair_image_ids(path: Path, images: list[dict], repairs: Repairs) -> dict[object, int]:
    """Every image has a number of its own; returns stated id -> number."""
    seen: dict[object, dict] = {}
    for image in images:
        if 'id' not in image or not isinstance(image.get('file_name'), str):
            raise DataError(f'{path}: an image lacks its id or file_name: {image!r:.200}')
        other = seen.setdefault(_number(image['id']), image)
        if other['file_name'] != image['file_name']:
            raise DataError(
                f'{path}: {other["file_name"]} and {image["file_name"]} have the same id '
                f'{image["id"]!r}; were two files merged? Give every image an id of its own.'
            )
    if len(seen) < len(images):
        for _ in range(len(images) - len(seen)):
            repairs.changed(path, 'images that are listed twice')
        images[:] = seen.values()
    new_ids: dict[object, int] = {key: key for key in seen if isinstance(key, int)}
    if len(new_ids) < len(seen):
        new_ids = {key: number for number, key in enumerate(seen, 1)}
    for image in images:
        number = new_ids[_number(image['id'])]
        if type(image['id']) is not int or image['id'] != number:
            image['id'] = number
            repairs.changed(path, 'ids of images that were no numbers')
    return new_ids


def _repair_image_id(
    path: Path, annotation: dict, new_ids: dict[object, int], repairs: Repairs
) -> None:
    stated = annotation.get('image_id')
    number = new_ids.get(_number(stated))
    if number is None:
        raise DataError(
            f'{path}: annotation {annotation.get("id")!r} belongs to image {stated!r}, which the '
            'file does not list.'
        )
    if number != stated:
        annotation['image_id'] = number
        repairs.changed(path, 'ids of images in annotations')


def _repair_box(path: Path, annotation: dict, repairs: Repairs) -> None:
    """Box, area, iscrowd and segmentation of an annotation are complete."""
    segmentation = annotation.get('segmentation')
    if segmentation:
        clean = _clean_segmentation(path, annotation, segmentation)
        if clean is not segmentation:
            repairs.changed(
                path, 'polygons: nested as in COCO, those of less than 3 points left out'
            )
            annotation['segmentation'] = segmentation = clean
    box = annotation.get('bbox')
    if not box and segmentation:
        annotation['bbox'] = box = box_of(segmentation)
        repairs.changed(path, 'missing boxes computed from the segmentation')
    numbers = _numbers(box)
    if numbers is None or len(numbers) != 4:
        raise DataError(
            f'{path}: annotation {annotation.get("id")!r} has bbox {box!r:.100}; it must be four '
            'finite numbers (x, y, width, height).'
        )
    if numbers is not box:
        annotation['bbox'] = box = numbers
        repairs.changed(path, 'boxes that were texts are numbers')
    for kind in completion.complete(annotation):
        repairs.changed(path, _COMPLETED[kind])


def _numbers(values: object) -> list | None:
    """A list of finite numbers, texts converted; the same object if nothing is to convert."""
    if not isinstance(values, list):
        return None
    if all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return values
    try:
        converted = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return converted if all(map(math.isfinite, converted)) else None


def _clean_segmentation(path: Path, annotation: dict, segmentation: object) -> list | dict:
    """Polygons as COCO has them; the same object if they are."""
    name = f'{path}: annotation {annotation.get("id")!r}'
    if isinstance(segmentation, dict):
        if not isinstance(segmentation.get('counts'), (list, str)) or not segmentation.get('size'):
            raise DataError(f'{name} has a segmentation without counts or size.')
        return segmentation
    if not isinstance(segmentation, list):
        raise DataError(f'{name} has the segmentation {segmentation!r:.80}, no list of polygons.')
    if _is_clean(segmentation):
        return segmentation
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # VIA writes the one polygon bare
    polygons = []
    for polygon in segmentation:
        if polygon and isinstance(polygon[0], list):
            polygon = [value for point in polygon for value in point]
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) % 2:
            raise DataError(f'{name} has a polygon that is no list of x, y, ...: {polygon!r:.80}')
        if len(numbers) >= 6:
            polygons.append(numbers)
    return polygons


def _is_clean(segmentation: list) -> bool:
    return all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(type(value) in (int, float) and value - value == 0 for value in polygon)
        for polygon in segmentation
    )


def unify_categories(
    parts: dict[str, Instances], repairs: Repairs
) -> tuple[dict[str, Instances], tuple[str, ...]]:
    """All parts with the same categories in the same order, and their names.

    mmdet numbers classes in the order of each file: files that differ in it would train on one
    numbering and be evaluated by another.
    """
    lists = {
        part: [(c['id'], c['name']) for c in instances.coco['categories']]
        for part, instances in parts.items()
    }
    first = next(iter(lists.values()))
    if all(other == first for other in lists.values()):
        return parts, tuple(name for _, name in first)
    names = list(dict.fromkeys(name for pairs in lists.values() for _, name in pairs))
    by_name: dict[str, set] = {}
    for key, name in (pair for pairs in lists.values() for pair in pairs):
        by_name.setdefault(name, set()).add(key)
    keeps_ids = all(len(keys) == 1 for keys in by_name.values()) and len(
        {key for keys in by_name.values() for key in keys}
    ) == len(names)
    ids = {n: min(by_name[n]) if keeps_ids else i for i, n in enumerate(names, 1)}
    categories = [{'id': ids[name], 'name': name} for name in names]
    unified = {}
    for part, instances in parts.items():
        if lists[part] == [(c['id'], c['name']) for c in categories]:
            unified[part] = instances
            continue
        repairs.say(
            f'the files list different categories, or in another order; all get: {shortened(names)}'
        )
        new_id = {key: ids[name] for key, name in lists[part]}
        for annotation in instances.coco['annotations']:
            annotation['category_id'] = new_id[annotation['category_id']]
        coco = {**instances.coco, 'categories': [dict(c) for c in categories]}
        unified[part] = replace(instances, coco=coco, file=None)
    return unified, tuple(names)
