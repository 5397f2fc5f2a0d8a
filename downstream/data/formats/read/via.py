"""VGG Image Annotator: regions of images in one JSON file, as a project or as exported annotations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeGuard

from backbones.errors import DataError
from downstream.data.files import shortened
from downstream.data.formats.candidate import Candidate, refusing_empty
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import files_below, part_of_path
from downstream.data.formats.instances import InstancesBuilder, Polygon, box_of, ellipse
from downstream.data.json_files import read_json

from .coco_files import ImageFinder
from .coco_repairs import Repairs

_IMAGES = '_via_img_metadata'
_HEAD = 2**16
_REGION = re.compile(rb'"(?:shape_attributes|region_attributes|_via_img_metadata|_via_settings)"')
# Names of the attribute that is the class, where regions have several.
_CLASS_NAMES = ('class', 'label', 'category', 'name', 'type', 'object')
_ONLY_CLASS = 'object'
_NUMBERS = {
    'rect': ('x', 'y', 'width', 'height'),
    'circle': ('cx', 'cy', 'r'),
    'ellipse': ('cx', 'cy', 'rx', 'ry'),
}


def recognise(source: Path) -> list[Candidate]:
    """Files of VIA in a folder and its subfolders, or the file itself."""
    searched = [source] if source.is_file() else files_below(source, ['.json'])
    files = [path for path in searched if path.suffix.lower() == '.json' and _is_via(path)]
    named = files[0] if len(files) == 1 else source
    reading = refusing_empty(partial(read, source, files), files, searched)
    return [Candidate('VIA', named, reading)] if files else []


def _is_via(path: Path) -> bool:
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
    regions = b'"regions"' in head and b'"filename"' in head
    return bool((regions and b'"file_attributes"' in head) or _REGION.search(head))


def read(source: Path, files: list[Path]) -> Found:
    """A set from its files, one for each part.

    Rectangles are boxes without a mask; polygons, closed polylines, circles and ellipses are outlines.

    Raises:
        DataError: A file is damaged, a region has no class, or it is unclear which part a file is.
    """
    repairs = Repairs()
    contents = {
        part: (path, _read_json(path)) for part, path in _parts(source, files, repairs).items()
    }
    attribute, classes = _classes(contents, repairs)
    parts = {
        part: _read_part(path, part, content, attribute, classes, repairs)
        for part, (path, content) in contents.items()
    }
    return Found('VIA', 'detection', tuple(classes.values()), parts, repairs.notes())


def _parts(source: Path, files: list[Path], repairs: Repairs) -> dict[str, Path]:
    if len(files) == 1:
        return {'all': files[0]}
    chosen: dict[str | None, Path] = {}
    for path in files:
        part = part_of_path(path / path.stem, source)
        if part is None or part in chosen:
            raise DataError(
                f'{len(files)} files of VIA, and it is not clear which is training and which is '
                f'validation: {shortened(map(str, files), 4)}. Name one with --data, or put train, val '
                'or test into the names of all.'
            )
        chosen[part] = path
    return {str(part): path for part, path in chosen.items()}


def _read_json(path: Path) -> dict:
    content = read_json(path)
    images = content.get(_IMAGES, content) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(images, dict) or not images:
        raise DataError(f'{path} lists no images.')
    for key, image in images.items():
        if not isinstance(image, dict) or not isinstance(image.get('filename'), str):
            raise DataError(f'{path}: the entry {key!r:.80} has no filename.')
        regions = image.get('regions') or []
        # VIA 1 numbers the regions of an image in an object.
        image['regions'] = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(image['regions'], list):
            raise DataError(f'{path}: {image["filename"]} has regions that are no list.')
        for number, region in enumerate(image['regions']):
            if not isinstance(region, dict) or not isinstance(region.get('shape_attributes'), dict):
                raise DataError(f'{path}: region {number} of {image["filename"]} has no shape.')
            if not isinstance(region.get('region_attributes') or {}, dict):
                raise DataError(
                    f'{path}: region {number} of {image["filename"]} has attributes that are no object.'
                )
    return content


def _images(content: dict) -> list[dict]:
    """Name and regions of each image. Entries of one file, whose size has changed, are one image."""
    images: dict[str, dict] = {}
    for entry in content.get(_IMAGES, content).values():
        image = images.setdefault(entry['filename'], {'filename': entry['filename'], 'regions': []})
        image['regions'] += entry['regions']
    return list(images.values())


def _classes(
    contents: Mapping[str, tuple[Path, dict]], repairs: Repairs
) -> tuple[str | None, dict[str, str]]:
    """The attribute of regions that is their class, and its values with the names of classes.

    Raises:
        DataError: Regions have several attributes, and none of them is called class.
    """
    declared: dict[str, dict[str, str]] = {}
    used: dict[str, Counter[str]] = {}
    for path, content in contents.values():
        for name, about in ((content.get('_via_attributes') or {}).get('region') or {}).items():
            declared.setdefault(name, {}).update((about or {}).get('options') or {})
        for image in _images(content):
            for region in image['regions']:
                for name, value in (region.get('region_attributes') or {}).items():
                    chosen = _chosen(path, image, name, value)
                    used.setdefault(name, Counter()).update([chosen] if chosen else [])
    if not any(used.values()):
        repairs.say(f'regions have no attributes: all are of one class, {_ONLY_CLASS}')
        return None, {'': _ONLY_CLASS}
    known = {name.lower(): name for name in used if used[name]}
    attribute = next((known[name] for name in _CLASS_NAMES if name in known), None)
    if len(known) == 1:
        attribute = next(iter(known.values()))
    if attribute is None:
        path = next(iter(contents.values()))[0]
        raise DataError(
            f'{path}: regions have the attributes {shortened(known.values())}, and it is not clear which '
            'is the class; rename it to class.'
        )
    if len(known) > 1:
        repairs.say(f'the attribute {attribute} of regions is their class')
    options = declared.get(attribute) or {}
    values = [*options, *sorted(set(used[attribute]) - set(options))]
    # Ids of options may be numbers, described by the name.
    return attribute, {
        value: (options.get(value) or value).strip() if value.isdecimal() else value
        for value in values
    }


def _chosen(path: Path, image: dict, name: str, value: object) -> str:
    """The value of an attribute: a text, or the one box that is ticked; '' without."""
    if isinstance(value, dict):
        ticked = [key for key, is_on in value.items() if is_on]
        if len(ticked) > 1:
            raise DataError(
                f'{path}: a region of {image["filename"]} has several values of {name}: '
                f'{shortened(ticked)}; an object has one class.'
            )
        return ticked[0].strip() if ticked else ''
    return str(value).strip() if isinstance(value, (str, int)) else ''


def _read_part(
    path: Path,
    part: str,
    content: dict,
    attribute: str | None,
    classes: Mapping[str, str],
    repairs: Repairs,
) -> Instances:
    images = _images(content)
    entries = [{'id': i, 'file_name': image['filename']} for i, image in enumerate(images, 1)]
    root = ImageFinder(path, part, repairs).resolve(entries)
    names = list(dict.fromkeys(classes.values()))
    builder = InstancesBuilder(root, entries, names)
    left_out: Counter[str] = Counter()
    for place, image in enumerate(images):
        for number, region in enumerate(image['regions']):
            where = f'{path}: region {number} of {image["filename"]}'
            shape = region['shape_attributes']
            kind = shape.get('name')
            if kind == 'point' or (kind == 'polyline' and not _is_closed(where, shape)):
                left_out[f'a {kind} has no area' if kind == 'point' else 'an open polyline'] += 1
                continue
            value = ''
            if attribute is not None:
                given = (region.get('region_attributes') or {}).get(attribute)
                value = _chosen(path, image, attribute, given)
                if not value:
                    raise DataError(f'{where} has no value of {attribute}, its class.')
            _add(builder, place, names.index(classes[value]), where, shape)
    for reason, count in left_out.items():
        repairs.say(f'{path}: {count} regions are left out: {reason}')
    return builder.result()


def _add(builder: InstancesBuilder, image: int, class_index: int, where: str, shape: dict) -> None:
    kind = shape.get('name')
    if kind == 'rect':
        x, y, width, height = _numbers(where, shape)
        if width < 0 or height < 0:
            raise DataError(f'{where} has a negative width or height.')
        builder.add(image, class_index, [x, y, width, height])
        return
    outline = _outline(where, shape)
    builder.add(image, class_index, box_of([outline]), [outline])


def _outline(where: str, shape: dict) -> Polygon:
    """The polygon of a region that is no rectangle."""
    kind = shape.get('name')
    if kind in ('polygon', 'polyline'):
        x, y = _points(where, shape)
        if len(x) < 3:
            raise DataError(f'{where} is a {kind} of {len(x)} points; it needs three.')
        return [value for point in zip(x, y) for value in point]
    if kind == 'circle':
        center_x, center_y, radius = _numbers(where, shape)
        return ellipse(center_x, center_y, radius, radius)
    if kind == 'ellipse':
        angle = shape.get('theta') or 0  # in radians; VIA before 2.0.6 has none
        if not _is_number(angle):
            raise DataError(f'{where} has theta {angle!r:.40}, no number.')
        center_x, center_y, radius_x, radius_y = _numbers(where, shape)
        return ellipse(center_x, center_y, radius_x, radius_y, angle)
    raise DataError(f'{where} has the shape {kind!r}, which is not known.')


def _is_closed(where: str, shape: dict) -> bool:
    """Whether a polyline ends where it begins."""
    x, y = _points(where, shape)
    return len(x) >= 4 and (x[0], y[0]) == (x[-1], y[-1])


def _points(where: str, shape: dict) -> tuple[list[float], list[float]]:
    x, y = shape.get('all_points_x'), shape.get('all_points_y')
    if not (
        isinstance(x, list)
        and isinstance(y, list)
        and len(x) == len(y)
        and all(map(_is_number, [*x, *y]))
    ):
        raise DataError(f'{where} has points that are no pairs of numbers.')
    return x, y


def _numbers(where: str, shape: dict) -> list[float]:
    keys = _NUMBERS[shape['name']]
    values = [shape.get(key) for key in keys]
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) < len(values):
        raise DataError(
            f'{where} is a {shape["name"]} whose {", ".join(keys)} are {values!r:.80}, no numbers.'
        )
    return numbers


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value) and value is not True
