"""Checks of COCO annotations and their images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from numbers import Real
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import DataError

from .files import (
    exif_advice,
    loaded_size,
    require_files,
    require_folder,
    require_root,
    shortened,
    some,
)
from .reading import is_cut_off, require_within

# Of a larger file only the categories are read, unless everything is to be checked.
FULL_JSON_BYTES = 64 * 2**20
_ADVICE = 'COCO instance annotations are a JSON object with images, annotations, categories.'
_REQUIRED = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
_REASONS = {
    'flat': 'thinner than 1 px, of negative size or without area',
    'outside': 'outside of their image',
    'unknown': 'of categories that the config does not list',
}


def check_coco(
    where: str, dataset: ConfigDict, full: bool, needs_truth: bool = True
) -> tuple[str, ...]:
    """Check COCO annotations and their images.

    Args:
        where: The key of ``dataset`` in the config, for messages.
        dataset: Config of a ``CocoDataset``.
        full: Read every annotation file whole, and open every image.
        needs_truth: Whether the file must have annotations; those of COCO's test sets have none.

    Returns:
        The classes of the config.

    Raises:
        DataError: Something is missing, cannot be read, or contradicts the config.
    """
    root = Path(dataset.get('data_root') or '')
    ann_file = root / dataset.ann_file
    image_dir = root / dataset.data_prefix.get('img', '')
    require_root(where, root)
    if not ann_file.is_file():
        raise DataError(f'{where}: the annotation file {ann_file} (ann_file) does not exist.')
    require_folder(where, 'data_prefix.img', image_dir)
    categories, content = _read(ann_file, full, needs_truth)
    classes = _classes(dataset)
    _require_classes(where, ann_file, classes, [category['name'] for category in categories])
    if content is not None:
        steps = list(_steps(dataset.get('pipeline') or ()))
        learnt = {category['id'] for category in categories if category['name'] in classes}
        _check_annotations(ann_file, content)
        _count_left_out(ann_file, content, learnt)
        if any(step.get('with_mask') for step in steps):
            _require_masks(ann_file, content, learnt)
        _check_images(ann_file, content, image_dir, steps, full)
    return classes


def _classes(dataset: ConfigDict) -> tuple[str, ...]:
    given = (dataset.get('metainfo') or {}).get('classes')
    if given is None:
        from mmdet.datasets import CocoDataset

        given = CocoDataset.METAINFO['classes']
    return (given,) if isinstance(given, str) else tuple(given)


def _require_classes(where: str, ann_file: Path, classes: tuple, names: list[str]) -> None:
    missing = [name for name in classes if name not in names]
    if missing:
        hint = get_close_matches(missing[0], names, 1)
        raise DataError(
            f'{ann_file} has no category {shortened(missing)}'
            + (f' (but {hint[0]!r})' if hint else '')
            + f'; it has {shortened(names)}. List the classes to learn in {where}.metainfo, '
            f'e.g. metainfo=dict(classes={tuple(names[:3])}).'
        )
    unused = [name for name in names if name not in classes]
    if unused:
        print_log(
            f'{ann_file}: categories not in the config, left out: {shortened(unused)}', 'current'
        )


def _read(ann_file: Path, full: bool, needs_truth: bool) -> tuple[list[dict], dict | None]:
    """Categories of an annotation file and, unless it is huge, all of its content."""
    text = ann_file.read_text(errors='replace')
    try:
        if len(text) > FULL_JSON_BYTES and not full:
            start = text.index('[', text.rindex('"categories"'))
            return json.JSONDecoder().raw_decode(text, start)[0], None
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f'{ann_file} is no JSON or is cut off ({error}). {_ADVICE}') from error
    if isinstance(content, dict) and not needs_truth:
        content.setdefault('annotations', [])
    absent = [
        key
        for key in _REQUIRED
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if absent:
        raise DataError(f'{ann_file} has no list {shortened(absent)}. {_ADVICE}')
    for key, wanted in _REQUIRED.items():
        for entry in content[key]:
            lacking = [k for k in wanted if not isinstance(entry, dict) or k not in entry]
            if lacking:
                raise DataError(
                    f'{ann_file}: an entry of {key} lacks {shortened(lacking)}: {entry!r:.200}'
                )
    return content['categories'], content


def _check_annotations(ann_file: Path, content: dict) -> None:
    images = {image['id'] for image in content['images']}
    if not images:
        raise DataError(f'{ann_file} lists no images.')
    known = {category['id'] for category in content['categories']}
    seen: set = set()
    for annotation in content['annotations']:
        name = f'{ann_file}: annotation {annotation["id"]!r}'
        if annotation['image_id'] not in images:
            raise DataError(
                f'{name} belongs to image {annotation["image_id"]!r}, which the file does not list.'
            )
        if annotation['category_id'] not in known:
            raise DataError(
                f'{name} has category {annotation["category_id"]!r}, which the file does not list.'
            )
        box = annotation['bbox']
        numbers = [*box, annotation['area']] if isinstance(box, list) else []
        if len(numbers) != 5 or not all(isinstance(value, Real) for value in numbers):
            raise DataError(
                f'{name} has bbox {box!r} and area {annotation["area"]!r}; they must be four numbers '
                '(x, y, width, height) and one.'
            )
        if annotation['id'] in seen:
            raise DataError(f'{name} is there twice; every annotation needs an id of its own.')
        seen.add(annotation['id'])


def reason_to_leave_out(
    annotation: Mapping, image: Mapping, categories: Collection[int]
) -> str | None:
    """Why mmdet's CocoDataset leaves a box out, a key of the report; None if it does not.

    Args:
        annotation: An entry of a COCO file.
        image: Its image, with ``width`` and ``height``.
        categories: Ids of the classes to learn.
    """
    if annotation.get('ignore', False):
        return None
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return 'flat'
    seen_width = min(x + width, image['width']) - max(x, 0)
    seen_height = min(y + height, image['height']) - max(y, 0)
    if seen_width <= 0 or seen_height <= 0:
        return 'outside'
    return None if annotation['category_id'] in categories else 'unknown'


def _count_left_out(ann_file: Path, content: dict, learnt: Collection[int]) -> None:
    """Log how many boxes mmdet leaves out, and why."""
    images = {image['id']: image for image in content['images']}
    count = Counter(
        reason_to_leave_out(annotation, images[annotation['image_id']], learnt)
        for annotation in content['annotations']
    )
    parts = [f'{count[key]} {text}' for key, text in _REASONS.items() if count[key]]
    if parts:
        total = len(content['annotations'])
        print_log(f'{ann_file}: of {total} boxes {", ".join(parts)} are left out.', 'current')


def _require_masks(ann_file: Path, content: dict, learnt: Collection[int]) -> None:
    images = {image['id']: image for image in content['images']}
    without = [
        annotation
        for annotation in content['annotations']
        if not annotation.get('segmentation')
        and not annotation.get('ignore', False)
        and reason_to_leave_out(annotation, images[annotation['image_id']], learnt) is None
    ]
    if without:
        raise DataError(
            f'{len(without)} of {len(content["annotations"])} annotations of {ann_file} have '
            f'no segmentation, the first: {without[0]["id"]!r}, but masks are to be loaded '
            '(with_mask=True); remove these annotations, or train without masks: docs/data.md, '
            '"Boxes without masks".'
        )


def _check_images(
    ann_file: Path, content: dict, image_dir: Path, steps: list[Mapping], full: bool
) -> None:
    paths = {image_dir / image['file_name']: image for image in content['images']}
    for path in paths:
        require_within(path, [os.path.abspath(image_dir)])
    require_files(ann_file, list(paths))
    for path in some(list(paths), full, 'images'):
        (width, height), turned = loaded_size(path, steps)
        if is_cut_off(path):
            raise DataError(f'{path} is cut off.')
        stated = paths[path]
        if (width, height) != (stated['width'], stated['height']):
            raise DataError(
                f'{path} is {width} x {height}, but {ann_file} says '
                f'{stated["width"]} x {stated["height"]}.{exif_advice(turned)}'
            )


def _steps(pipeline: Iterable) -> Iterable[Mapping]:
    """The transforms of a pipeline, and those nested in them."""
    for step in pipeline:
        if isinstance(step, Mapping):
            yield step
            yield from _steps(step.get('transforms') or ())
        elif isinstance(step, (list, tuple)):
            yield from _steps(step)
