"""What annotations of COCO files lack and needs no guess: ids, area, iscrowd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real

from downstream.data.run_lengths import area_of

_TRUE = (1, True, '1', 'true', 'True')


def number(annotations: Sequence[dict]) -> Iterator[tuple[str, dict, object]]:
    """Give every annotation a whole number above 0 of its own, in place. Nothing refers to them.

    COCO's evaluation takes a match with id 0 for a miss.

    Yields:
        Kind of finding, annotation and former id of each that got another number, the next free one.
    """
    ids: set[int] = set()
    highest = max((one['id'] for one in annotations if _is_id(one.get('id'))), default=0)
    for annotation in annotations:
        former = annotation.get('id')
        if not _is_id(former) or former in ids:
            highest += 1
            annotation['id'] = highest
            odd = 'id-missing' if former is None else 'id-odd'
            yield 'id-repeated' if _is_id(former) else odd, annotation, former
        ids.add(annotation['id'])


def _is_id(value: object) -> bool:
    return type(value) is int and value > 0


def complete(annotation: dict) -> Iterator[str]:
    """Give an annotation with a sound box its area and iscrowd, in place.

    Its area is that of its mask as in COCO's own files, where it is missing or 0; else of its box.

    Yields:
        The kind of finding of each that it lacked.
    """
    stated = annotation.get('area')
    known = stated if isinstance(stated, Real) and not isinstance(stated, bool) else None
    if known is None or (known <= 0 and min(annotation['bbox'][2:]) > 0):
        computed = _area(annotation)
        if known is None or computed != known:
            annotation['area'] = computed
            yield 'area-missing'
    crowd = annotation.get('iscrowd')
    if crowd not in (0, 1) or isinstance(crowd, bool):
        annotation['iscrowd'] = int(crowd in _TRUE)
        yield 'crowd-missing'


def _area(annotation: dict) -> float:
    try:
        return area_of(annotation.get('segmentation'), annotation['bbox'])
    except Exception:  # the form of the mask is checked for its own sake
        return area_of(None, annotation['bbox'])
