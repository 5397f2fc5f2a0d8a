"""What may be compared: tests of the same images, annotations and classes, by the same protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbones.errors import DataError

from . import kept
from .kept import TestRun

# Characters of a value in a message.
_LONGEST = 60


def refuse_different(a: TestRun, b: TestRun) -> None:
    """Refuse two tests whose figures cannot be compared.

    Raises:
        DataError: The first difference, named with both values; or a test does not say what it tested.
    """
    if found := difference_of(a, b):
        raise DataError(f'{a.folder} and {b.folder} cannot be compared: {found}.')


def difference_of(a: TestRun, b: TestRun) -> str | None:
    """What keeps two tests from being compared, as a phrase; None where nothing does.

    Raises:
        DataError: A test does not say what it tested.
    """
    if a.task != b.task:
        return f'{a.task} and {b.task}'
    for test in (a, b):
        if not test.data.get('digest'):
            raise DataError(
                f'{test.folder / kept.REPORT} does not say what was tested; run the test again: '
                f'{test.command}'
            )
    return (
        _of_classes(a.classes, b.classes)
        or _of_data(a, b)
        or _of_values('', a.data.get('protocol', {}), b.data.get('protocol', {}))
        or _of_values('rules', a.data.get('rules', {}), b.data.get('rules', {}))
    )


def _of_classes(a: tuple[str, ...], b: tuple[str, ...]) -> str | None:
    if a == b:
        return None
    if len(a) != len(b):
        return f'{len(a)} classes and {len(b)}'
    first, second = next(pair for pair in zip(a, b) if pair[0] != pair[1])
    return f'classes {first!r} and {second!r} in the same place'


def _of_data(a: TestRun, b: TestRun) -> str | None:
    if a.data['digest'] == b.data['digest'] and a.data['images'] == b.data['images']:
        return None
    if a.data['images'] != b.data['images']:
        return f'{a.data["images"]} images and {b.data["images"]}'
    if a.task == 'segmentation':
        return _of_masks(a, b)
    return _of_annotations(kept.truth_of(a), kept.truth_of(b))


def _of_masks(a: TestRun, b: TestRun) -> str:
    first, second = kept.counts_of(a), kept.counts_of(b)
    digests = dict(zip(second.names, second.digests))
    for name, digest in zip(first.names, first.digests):
        if name not in digests:
            return f'image {name} is in the first one only'
        if digests[name] != digest:
            return f'the annotations of image {name} differ'
    return 'the images come in another order'


def _of_annotations(a: Mapping[str, list], b: Mapping[str, list]) -> str | None:
    """Files may differ in what no figure depends on."""
    names = [{image['id']: image.get('file_name') for image in one['images']} for one in (a, b)]
    for id_, name in names[0].items():
        if id_ not in names[1]:
            return f'image {id_} ({name}) is in the first one only'
        if names[1][id_] != name:
            return f'image {id_} is {name} and {names[1][id_]}'
    objects = [_objects(one) for one in (a, b)]
    for id_ in names[0]:
        if objects[0].get(id_) != objects[1].get(id_):
            return f'the annotations of image {id_} ({names[0][id_]}) differ'
    return None


def _objects(content: Mapping[str, list]) -> dict[Any, list]:
    """What is annotated in each image, in an order that does not depend on the file's."""
    classes = {category['id']: category['name'] for category in content['categories']}
    keys = ('bbox', 'area', 'iscrowd', 'segmentation')
    found: dict[Any, list] = {}
    for one in content['annotations']:
        row = repr((classes.get(one['category_id']), *(one.get(key) for key in keys)))
        found.setdefault(one['image_id'], []).append(row)
    return {id_: sorted(rows) for id_, rows in found.items()}


def _of_values(key: str, a: object, b: object) -> str | None:
    """The first place at which two values differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        parts = [(k, a.get(k), b.get(k)) for k in sorted({*a, *b})]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        parts = [(str(place), *pair) for place, pair in enumerate(zip(a, b))]
    else:
        return None if a == b else f'{key} is {_short(a)} and {_short(b)}'
    found = (_of_values(f'{key}.{k}'.strip('.'), x, y) for k, x, y in parts)
    return next((text for text in found if text), None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'
