"""Files that list classes, with their values or colours in masks."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import DataError
from downstream.data.files import IGNORED

from .found import Color
from .images import read_text

_FILES = (
    'labelmap.txt', '_classes.csv', 'class_dict.csv', 'class_dict_seg.csv', 'classes.csv',
    'label_colors.txt', 'classes.json', 'labels.json', 'objectInfo150.txt', 'classes.txt',
    'class_names.txt', 'labels.txt',
)  # fmt: skip
_NOT_A_CLASS = frozenset(
    ('__ignore__', 'ignore', 'ignored', 'void', 'unlabeled', 'unlabelled', '_ignore_')
)
_HEADER_NAMES = frozenset(('name', 'class', 'label', 'classes', 'class_name', 'label_name'))
_NUMBERED = re.compile(r'(\d+)[\s,:;]+(\D.*)')


@dataclass(frozen=True)
class ClassTable:
    """Classes of masks.

    Attributes:
        path: The file that lists them.
        classes: Their names, without those for unlabelled pixels.
        values: Value or colour in a mask -> place in ``classes``, or 255 for unlabelled; None if the
            file lists names alone.
    """

    path: Path
    classes: tuple[str, ...]
    values: dict[int, int] | dict[Color, int] | None


def find_class_table(folder: Path) -> ClassTable | None:
    """The table in ``folder``, or in the folders of its parts if they agree; None if there is none.

    Raises:
        DataError: It cannot be read, or there are two that differ.
    """
    tables = []
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        paths = [place / name for name in _FILES if (place / name).is_file()]
        tables += [read_class_table(path) for path in paths]
        if tables and place == folder:
            break
    rich = [table for table in tables if table.values is not None] or tables
    for table in rich[1:]:
        if (table.classes, table.values) != (rich[0].classes, rich[0].values):
            raise DataError(f'{rich[0].path} and {table.path} list different classes; remove one.')
    return rich[0] if rich else None


def read_class_table(path: Path) -> ClassTable:
    """Classes from a CSV, JSON or text file, or from CVAT's ``labelmap.txt``.

    A row has a name alone (the first has value 0), a name and a value, or a name, red, green and blue,
    in any order of columns.

    Raises:
        DataError: A row is none of these, or a class or value is there twice.
    """
    if path.suffix == '.json':
        rows = _json_rows(path)
    elif path.name == 'labelmap.txt':
        rows = _labelmap_rows(path)
    else:
        rows = _text_rows(path)
    if not rows:
        raise DataError(f'{path} lists no classes.')
    lengths = {len(values) for _, values in rows}
    if len(lengths) > 1 or not lengths <= {0, 1, 3}:
        raise DataError(
            f'{path}: every row must have a name alone, a name and a value, or a name and three '
            'numbers of a colour.'
        )
    return _table(path, rows)


def _table(path: Path, rows: list[tuple[str, tuple[int, ...]]]) -> ClassTable:
    names = list(dict.fromkeys(name for name, _ in rows))
    plain = not rows[0][1]
    if plain and len(names) < len(rows):
        raise DataError(f'{path} lists a class twice.')
    if plain and not any(name.lower() in _NOT_A_CLASS for name in names):
        return ClassTable(path, tuple(names), None)
    classes = [name for name in names if name.lower() not in _NOT_A_CLASS]
    values: dict = {}
    for place, (name, numbers) in enumerate(rows):
        key = place if plain else numbers[0] if len(numbers) == 1 else numbers
        if key in values:
            raise DataError(f'{path}: the value {key} is there twice.')
        values[key] = classes.index(name) if name in classes else IGNORED
    return ClassTable(path, tuple(classes), values)


def _json_rows(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f'{path} is no JSON ({error}).') from error
    if isinstance(content, dict) and isinstance(content.get('classes'), (list, dict)):
        content = content['classes']
    pairs: list[tuple[object, object]] = []
    if isinstance(content, dict):
        # {"0": "road"} as well as {"road": 0} and {"road": [128, 64, 128]}
        pairs = [(v, k) if isinstance(v, str) else (k, v) for k, v in content.items()]
    elif isinstance(content, list):
        for entry in content:
            if isinstance(entry, dict):
                value = next(
                    (entry[k] for k in ('color', 'colour', 'rgb', 'value', 'id') if k in entry), ()
                )
                pairs.append((entry.get('name') or entry.get('label'), value))
            else:
                pairs.append((entry, ()))
    rows = []
    for name, value in pairs:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not isinstance(name, str) or not all(str(number).isdecimal() for number in numbers):
            raise DataError(f'{path}: {name!r}: {value!r} is no class with a value or a colour.')
        rows.append((name, tuple(int(str(number)) for number in numbers)))
    return rows


def _labelmap_rows(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """CVAT's ``name:r,g,b:parts:actions``; plain lines are read as in other text files.

    Without colours (``name:::``) they are VOC's, in the order of the lines.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip() and line[0] != '#']
    pattern = re.compile(r'(.+?):(?:(\d+),(\d+),(\d+))?:[^:]*:.*')
    matches = [match for line in lines if (match := pattern.fullmatch(line.strip()))]
    if len(matches) < len(lines):
        return _text_rows(path)
    if not any(match[2] for match in matches):
        return [(match[1], _voc_color(place)) for place, match in enumerate(matches)]
    return [(m[1], (int(m[2]), int(m[3]), int(m[4]))) if m[2] else (m[1], ()) for m in matches]


def _voc_color(place: int) -> Color:
    """Colour of class ``place`` in Pascal VOC: its bits, from the lowest, are the highest of R, G, B."""
    red = green = blue = 0
    for bit in range(8):
        red |= (place >> 3 * bit & 1) << (7 - bit)
        green |= (place >> 3 * bit + 1 & 1) << (7 - bit)
        blue |= (place >> 3 * bit + 2 & 1) << (7 - bit)
    return red, green, blue


def _text_rows(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and line[0] != '#']
    if path.suffix == '.csv' or path.name.startswith('objectInfo'):
        delimiter = '\t' if '\t' in ''.join(lines[:2]) else ','
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
        return _cell_rows(rows)
    spaced = [re.split(r'[\s,;]+', line) for line in lines]
    colors = [row for cells in spaced if (row := _color_row(cells))]
    if len(colors) == len(lines):
        return colors
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if len(numbered) == len(lines):
        return [(match[2], (int(match[1]),)) for match in numbered]
    return [(line, ()) for line in lines]


def _color_row(cells: list[str]) -> tuple[str, tuple[int, ...]] | None:
    """``name r g b`` or ``r g b name``; names may have spaces."""
    for numbers, names in ((cells[-3:], cells[:-3]), (cells[:3], cells[3:])):
        if names and all(cell.isdecimal() for cell in numbers):
            return ' '.join(names), tuple(map(int, numbers))
    return None


def _cell_rows(rows: list[list[str]]) -> list[tuple[str, tuple[int, ...]]]:
    header = [cell.lower() for cell in rows[0]] if rows else []
    has_header = bool(_HEADER_NAMES & set(header)) and not any(cell.isdecimal() for cell in header)
    if has_header and 'idx' in header:  # ADE20K's objectInfo150.txt has further columns
        place, name = header.index('idx'), header.index('name')
        return [(row[name], (int(row[place]),)) for row in rows[1:]]
    found = []
    for row in rows[1:] if has_header else rows:
        names = [cell for cell in row if cell and not cell.isdecimal()]
        numbers = [int(cell) for cell in row if cell.isdecimal()]
        found.append((', '.join(names), tuple(numbers)))
    return found
