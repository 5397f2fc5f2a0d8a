"""labelme: a JSON file of shapes for each image."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES, shortened
from downstream.data.formats.candidate import Candidate, refusing_empty
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import SUFFIXES, files_below, part_of_path, read_text
from downstream.data.formats.instances import (
    InstancesBuilder,
    Polygon,
    box_of,
    ellipse,
    image_entries,
)
from downstream.data.json_files import read_json
from downstream.data.run_lengths import as_json

_IGNORED = '__ignore__'
_AREAS = ('polygon', 'rectangle', 'circle', 'mask')
_HEAD = 2**16


def recognise(source: Path) -> list[Candidate]:
    """A folder with JSON files of shapes somewhere in it, or one such file."""
    searched = [source] if source.is_file() else files_below(source, ['.json'])
    files = [path for path in searched if path.suffix == '.json' and _is_labelme(path)]
    reading = refusing_empty(partial(read, source, files), files, searched)
    return [Candidate('labelme', source, reading)] if files else []


def _is_labelme(path: Path) -> bool:
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
    return b'"shapes"' in head and b'"images"' not in head


def read(source: Path, files: list[Path]) -> Found:
    """A set from its JSON files, parts by the names of folders.

    Rectangles are boxes without a mask; shapes of one label and group are one object.

    Raises:
        DataError: A file is damaged, or its image is missing or of another size.
    """
    root = source.parent if source.is_file() else source
    bar = tqdm(files, desc='reading JSON', disable=len(files) < FULL_FILES)
    contents = [_read_json(path) for path in bar]
    notes: list[str] = []
    classes = _class_names(root, contents)
    lists: dict[str, list[int]] = {}
    for place, path in enumerate(files):
        lists.setdefault(part_of_path(path, root) or 'all', []).append(place)
    if 'all' in lists and len(lists) > 1:
        raise DataError(
            f'{files[lists["all"][0]]} is in no folder of train, val or test, but others are.'
        )
    left_out: Counter[str] = Counter()
    parts = {
        name: _read_part(
            [files[i] for i in chosen], [contents[i] for i in chosen], classes, left_out
        )
        for name, chosen in lists.items()
    }
    for kind, count in left_out.items():
        notes.append(f'{count} shapes are left out: {kind}')
    unlabelled = len(files_below(root)) - len(files) if source.is_dir() else 0
    if unlabelled > 0:
        notes.append(f'{unlabelled} images have no JSON file and are left out')
    return Found('labelme', 'detection', classes, parts, tuple(notes))


def _read_json(path: Path) -> dict:
    content = read_json(path)
    shapes = content.get('shapes') if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(shapes, list):
        raise DataError(f'{path} has no list of shapes.')
    for number, shape in enumerate(shapes):
        named = isinstance(shape, dict) and isinstance(shape.get('label'), str)
        if not named or not _are_points(shape.get('points')):
            raise DataError(f'{path}: shape {number} has no label, or no points of two numbers.')
    return content


def _are_points(points: object) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in point)
        for point in points
    )


def _class_names(root: Path, contents: list[dict]) -> tuple[str, ...]:
    names = sorted({shape['label'] for content in contents for shape in content['shapes']})
    listed = next((p for p in (root / 'labels.txt', root / 'classes.txt') if p.is_file()), None)
    if listed:
        given = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
        unknown = [name for name in names if name not in given]
        if unknown:
            raise DataError(f'{listed} lacks {shortened(unknown)}, which shapes name.')
        names = given
        used = {shape['label'] for content in contents for shape in content['shapes']}
        names = [name for name in names if name in used or name != '_background_']
    names = [name for name in names if name != _IGNORED]
    if not names:
        raise DataError(f'{root}: no labelme file has a shape.')
    return tuple(names)


def _image_of(path: Path, content: dict) -> Path:
    stated = str(content.get('imagePath') or '').replace('\\', '/')
    tried = [path.parent / stated, path.parent / Path(stated).name] if stated else []
    tried += [path.with_suffix(suffix) for suffix in sorted(SUFFIXES)]
    for image in tried:
        if image.is_file():
            return image
    embedded = ' It is embedded (imageData): export it.' if content.get('imageData') else ''
    raise DataError(f'{path}: its image {tried[0]} is missing.{embedded}')


def _read_part(
    files: list[Path], contents: list[dict], classes: tuple[str, ...], left_out: Counter[str]
) -> Instances:
    images = [_image_of(path, content) for path, content in zip(files, contents)]
    builder = InstancesBuilder(*image_entries(images), classes)
    index = {name: place for place, name in enumerate(classes)}
    for image, (path, content) in enumerate(zip(files, contents)):
        size = builder.size(image)
        stated = content.get('imageWidth'), content.get('imageHeight')
        if all(stated) and stated != size:
            raise DataError(
                f'{images[image]} is {size[0]} x {size[1]} as loaded, but {path} says '
                f'{stated[0]} x {stated[1]}.'
            )
        for label, shapes in _objects(content['shapes'], left_out):
            _add(builder, image, index[label], shapes, left_out)
    return builder.result()


def _objects(shapes: list[dict], left_out: Counter[str]) -> list[tuple[str, list[dict]]]:
    """Label and shapes of each object."""
    groups: dict[object, tuple[str, list[dict]]] = {}
    for number, shape in enumerate(shapes):
        kind = shape.get('shape_type') or 'polygon'
        if shape['label'] == _IGNORED:
            left_out[f'their label is {_IGNORED}'] += 1
            continue
        if kind not in _AREAS:
            left_out[f'a {kind} has no area'] += 1
            continue
        group = shape.get('group_id')
        key = (shape['label'], group) if group is not None else number
        groups.setdefault(key, (shape['label'], []))[1].append(shape)
    return list(groups.values())


def _add(
    builder: InstancesBuilder, image: int, kind: int, shapes: list[dict], left_out: Counter[str]
) -> None:
    """Add an object: polygons and circles as polygons, a bitmap as run lengths, a rectangle as a box."""
    width, height = builder.size(image)
    types = {shape.get('shape_type') or 'polygon' for shape in shapes}
    regions = [_region(shape, width, height) for shape in shapes]
    if None in regions:
        left_out['less than 3 points, or not 2 of a rectangle or circle'] += regions.count(None)
    polygons = [region for region in regions if region and not isinstance(region, dict)]
    codes = [region for region in regions if isinstance(region, dict)]
    if not codes and not polygons:
        return
    if 'mask' in types:
        codes += [code for p in polygons for code in rle.frPyObjects([p], height, width)]
        code = as_json(rle.merge(codes))
        builder.add(image, kind, box_of(code), code)
    elif types == {'rectangle'}:
        builder.add(image, kind, box_of(polygons))
    else:
        builder.add(image, kind, box_of(polygons), polygons)


def _region(shape: dict, width: int, height: int) -> Polygon | dict | None:
    """The outline of a shape, or the run-length code of a bitmap; None if it has too few points."""
    points, kind = shape['points'], shape.get('shape_type') or 'polygon'
    if kind == 'polygon':
        return [value for point in points for value in point] if len(points) >= 3 else None
    if len(points) != 2:
        return None
    (x0, y0), (x1, y1) = points
    if kind == 'rectangle':
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if kind == 'circle':
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse(x0, y0, radius, radius)
    return _bitmap(shape, width, height)


def _bitmap(shape: dict, width: int, height: int) -> dict:
    (x0, y0), _ = shape['points']
    with Image.open(io.BytesIO(base64.b64decode(shape['mask']))) as image:
        inner = np.asarray(image).astype(bool)
    left, top = round(x0), round(y0)
    canvas = np.zeros((height, width), np.uint8, order='F')
    target = canvas[top : top + inner.shape[0], left : left + inner.shape[1]]
    target[...] = inner[: target.shape[0], : target.shape[1]]
    return as_json(rle.encode(canvas))
