"""Records of a COCO file: fields, ids, references; what is missing and can be computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real

from . import completion
from .finding import Finding

_REQUIRED = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
_NUMBERED = {
    'id-missing': 'has no id',
    'id-repeated': 'is there twice; every annotation needs an id of its own',
    'id-odd': 'has an id that is no whole number above 0',
}
_LACKS = {'area-missing': 'has no area', 'crowd-missing': 'has no iscrowd'}
_ONE = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}


def sound_records(file: str, content: Mapping) -> tuple[dict[str, list[dict]], list[Finding]]:
    """The records of COCO annotations that can be used, and what is wrong with the others.

    Args:
        file: The annotation file, for messages.
        content: Lists ``images``, ``annotations`` and ``categories``. Annotations are repaired in
            place, see :func:`repair`.

    Returns:
        The three lists without broken records, and the findings.
    """
    found: list[Finding] = []
    complete: dict[str, list[dict]] = {}
    for key, fields in _REQUIRED.items():
        complete[key] = []
        for record in content[key]:
            lacking = _lacking(record, fields)
            if lacking:
                detail = f'an entry of {key} lacks {", ".join(lacking)}: {record!r:.200}'
                found.append(Finding('record', file, detail, _name(key, record)))
            else:
                complete[key].append(record)
    if not content['images']:
        found.append(Finding('no-images', file, 'lists no images'))
    found += _ids(file, complete)
    images = {image['id']: image for image in complete['images']}
    categories = {category['id'] for category in complete['categories']}
    sound = []
    for annotation in complete['annotations']:
        broken = list(_broken(file, annotation, images, categories))
        found += broken
        if not broken:
            sound.append(annotation)
    complete['annotations'] = sound
    found += repair(file, complete)
    return complete, found


def _name(key: str, record: object) -> str:
    if isinstance(record, Mapping) and 'id' in record:
        return f'{_ONE[key]} {record["id"]!r}:'
    return ''


def _lacking(record: object, fields: tuple[str, ...]) -> list[str]:
    return [name for name in fields if not isinstance(record, Mapping) or record.get(name) is None]


def _ids(file: str, content: Mapping[str, list[dict]]) -> Iterator[Finding]:
    """Ids and names that stand for two images or two categories."""
    for key in ('images', 'categories'):
        seen: dict = {}
        for record in content[key]:
            if record['id'] in seen and record != seen[record['id']]:
                detail = 'is there twice; every one needs an id of its own'
                yield Finding(f'{_ONE[key]}-id', file, detail, f'{_ONE[key]} {record["id"]!r}')
            seen[record['id']] = record
    files: dict[str, object] = {}
    for image in content['images']:
        if image['file_name'] in files:
            detail = (
                f'is of the same file as image {files[image["file_name"]]!r}: {image["file_name"]}'
            )
            yield Finding('image-twice', file, detail, f'image {image["id"]!r}')
        files[image['file_name']] = image['id']
    names: dict[str, str] = {}
    for category in content['categories']:
        name = str(category['name'])
        plain = ' '.join(name.lower().replace('_', ' ').split())
        if plain in names:
            same = names[plain] == name
            detail = 'has two categories' if same else f'and {names[plain]!r} look alike'
            kind = 'category-name' if same else 'category-alike'
            yield Finding(kind, file, detail, f'class {name!r}')
        names[plain] = name
        if plain in ('background', 'bg', '__background__'):
            yield Finding(
                'category-background', file, 'is a class of objects here', f'class {name!r}'
            )


def _broken(file: str, annotation: dict, images: Mapping, categories: set) -> Iterator[Finding]:
    """Why an annotation cannot be used."""
    record = f'annotation {annotation.get("id", "without id")!r}'
    for kind, key, known in (
        ('image', 'image_id', images),
        ('category', 'category_id', categories),
    ):
        value = annotation[key]
        if value not in known:
            relation = 'belongs to image' if kind == 'image' else 'has category'
            detail = (
                f'{relation} {value!r}, which the file does not list{_other_type(value, known)}'
            )
            yield Finding(f'{kind}-unknown', file, detail, record)
    box, area = annotation['bbox'], annotation.get('area')
    area = 0 if area is None else area  # which is computed
    numbers = [*box, area] if isinstance(box, (list, tuple)) else []
    if len(numbers) != 5 or not all(_is_number(value) for value in numbers):
        detail = (
            f'has bbox {box!r} and area {area!r}; they must be four numbers '
            '(x, y, width, height) and one'
        )
        yield Finding('box-numbers', file, detail, record)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _other_type(value: object, known: Mapping | set) -> str:
    """What to say where an id is listed as a number, but used as a text, or the reverse."""
    if str(value) not in {str(one) for one in known}:
        return ''
    used, listed = ('a text', 'a number') if isinstance(value, str) else ('a number', 'a text')
    return f': it lists it as {listed}, and this is {used}'


def repair(file: str, content: Mapping[str, list[dict]]) -> list[Finding]:
    """Give annotations what they lack and what needs no guess, in place; see :mod:`.completion`.

    Args:
        file: The annotation file, for messages.
        content: COCO's list ``annotations``.

    Returns:
        What was repaired.
    """
    annotations = content['annotations']
    found = []
    for kind, annotation, former in completion.number(annotations):
        name = f'annotation {former!r}'
        if kind == 'id-missing':
            name = f'an annotation of image {annotation.get("image_id")!r}'
        found.append(Finding(kind, file, _NUMBERED[kind], name))
    for annotation in annotations:
        record = f'annotation {annotation["id"]!r}'
        for kind in completion.complete(annotation):
            found.append(Finding(kind, file, _LACKS[kind], record))
    return found
