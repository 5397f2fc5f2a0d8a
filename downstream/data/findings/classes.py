"""Classes that nothing of a part belongs to, and lists of classes that are no lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .finding import Finding

_RARE = 10
_SHOWN = 8


def object_counts(content: Mapping[str, Sequence[Mapping]]) -> Counter[str]:
    """Objects of each class in COCO's sound records that are trained: no crowds, not left out."""
    name_of = {category['id']: category['name'] for category in content['categories']}
    return Counter(
        name_of[one['category_id']]
        for one in content['annotations']
        if not one.get('iscrowd') and not one.get('ignore') and min(one['bbox'][2:]) >= 1
    )


def class_findings(
    file: str, classes: Sequence[str], counts: Mapping[str, int], unit: str = 'object'
) -> list[Finding]:
    """Classes that a part has nothing, or hardly anything, of.

    Args:
        file: What messages name: the annotation file or the folder of masks.
        classes: Those to learn.
        counts: Objects, or pixels, of each.
        unit: What is counted. Pixels are never few.
    """
    found = []
    empty = [name for name in classes if not counts.get(name)]
    if empty:
        detail = f'has no {unit} of {len(empty)} of {len(classes)} classes: {_shown(empty)}'
        found.append(Finding('class-empty', file, detail))
    rare = [f'{name} ({counts[name]})' for name in classes if 0 < counts.get(name, 0) < _RARE]
    if rare and unit == 'object':
        detail = f'has fewer than {_RARE} objects of {len(rare)} classes: {_shown(rare)}'
        found.append(Finding('class-rare', file, detail))
    return found


def class_list_findings(where: str, given: object) -> list[Finding]:
    """What is odd about ``metainfo.classes`` as it stands in a config.

    Args:
        where: The key of the data set in the config, for messages.
        given: The value.
    """
    if isinstance(given, str):
        detail = f'is the text {given!r}, not a tuple: it is taken as one class'
        return [Finding('class-text', f'{where}.metainfo.classes', detail)]
    names = given if isinstance(given, Iterable) else ()
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        detail = f'has {_shown(repeated)} twice'
        return [Finding('class-repeated', f'{where}.metainfo.classes', detail)]
    return []


def _shown(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')
