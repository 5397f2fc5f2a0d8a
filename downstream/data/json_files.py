"""JSON files of annotations, read with one clear line for what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.errors import DataError

LISTS = ('images', 'annotations', 'categories')
_ADVICE = (
    'COCO instance annotations are a JSON object with images, annotations, categories; '
    '`python tools/data.py convert` makes them of other formats.'
)


class _Floats(dict):
    """Text -> number, one object for each of the first texts.

    Coordinates of polygons, rounded as in COCO's files, repeat: as objects of their own they would be
    two thirds of what a large set takes.
    """

    _MAX = 2**18

    def __missing__(self, text: str) -> float:
        value = float(text)
        if len(self) < self._MAX:
            self[text] = value
        return value


def read_json(path: Path, bom: bool = True) -> object:
    """The content of a JSON file.

    Args:
        path: The file.
        bom: Whether it may begin with a byte-order mark.

    Raises:
        DataError: It is no JSON, or is cut off.
    """
    try:
        with open(path, encoding='utf-8-sig' if bom else 'utf-8') as file:
            return json.load(file, parse_float=_Floats().__getitem__)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path} is no JSON or is cut off ({error}).') from error


def read_coco(path: Path, needs_truth: bool = True, bom: bool = False) -> dict:
    """The COCO dict in a file.

    Args:
        path: The file.
        needs_truth: Whether it must have annotations; those of COCO's test sets have none.
        bom: Whether it may begin with a byte-order mark, of which mmdet's reader knows nothing.

    Raises:
        DataError: It is no JSON, is cut off, or lacks one of COCO's lists of objects.
    """
    try:
        content = read_json(path, bom)
    except DataError as error:
        raise DataError(f'{error} {_ADVICE}') from error
    if isinstance(content, dict) and not needs_truth:
        content.setdefault('annotations', [])
    lists = content if isinstance(content, dict) else {}
    absent = [key for key in LISTS if not isinstance(lists.get(key), list)]
    if absent:
        raise DataError(f'{path} has no list {", ".join(absent)}. {_ADVICE}')
    return lists
