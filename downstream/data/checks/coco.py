"""Checks of COCO annotations and their images."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import DataError
from downstream.data.files import (
    exif_advice,
    loaded_size,
    require_files,
    require_folder,
    require_root,
    shortened,
    some,
)
from downstream.data.findings.boxes import box_findings
from downstream.data.findings.classes import class_findings, class_list_findings, object_counts
from downstream.data.findings.finding import Finding, lines
from downstream.data.findings.records import sound_records
from downstream.data.findings.segments import segment_findings
from downstream.data.images.read import read_header
from downstream.data.json_files import read_coco
from downstream.data.pipelines import steps_of
from downstream.data.reading import is_cut_off, require_within

from .bands import BandChecks

# Of a larger file only the categories are read, unless everything is to be checked.
FULL_JSON_BYTES = 64 * 2**20
# Said otherwise, or no sign of a mistake: tools/data.py check lists them.
_NOT_LOGGED = ('box-flat', 'box-outside', 'box-thin', 'segment-missing', 'class-rare')
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
    categories, content = read_annotations(ann_file, full, needs_truth)
    if content is not None:
        content, found = sound_records(str(ann_file), content)
        raise_first_error(found)
        report(found)
    given = (dataset.get('metainfo') or {}).get('classes')
    odd = class_list_findings(where, given)
    raise_first_error(odd)
    report(odd)
    classes = classes_of(given)
    _require_classes(where, ann_file, classes, [category['name'] for category in categories])
    if content is not None:
        steps = list(steps_of(dataset.get('pipeline') or ()))
        learnt = {category['id'] for category in categories if category['name'] in classes}
        _count_left_out(ann_file, content, learnt)
        if any(step.get('with_mask') for step in steps):
            _require_masks(ann_file, content, learnt)
        if needs_truth:
            _check_targets(ann_file, content, classes, image_dir)
        _check_images(ann_file, content, image_dir, steps, full)
    return classes


def classes_of(given: Iterable[str] | str | None) -> tuple[str, ...]:
    """The classes that ``metainfo.classes`` of a ``CocoDataset`` stands for; None: COCO's."""
    if given is None:
        from mmdet.datasets import CocoDataset

        given = CocoDataset.METAINFO['classes']
    return (given,) if isinstance(given, str) else tuple(given)


def _require_classes(where: str, ann_file: Path, classes: tuple, names: list[str]) -> None:
    missing = [name for name in classes if name not in names]
    if missing:
        hint = get_close_matches(missing[0], names, 1)
        advice = (
            f'List the classes to learn in {where}.metainfo, e.g. '
            f'metainfo=dict(classes={tuple(names[:3])}).'
        )
        if set(names) < set(classes):
            advice = 'If its images have none, list the category in the file all the same.'
        raise DataError(
            f'{ann_file} has no category {shortened(missing)}'
            + (f' (but {hint[0]!r})' if hint else '')
            + f'; it has {shortened(names)}. {advice}'
        )
    unused = [name for name in names if name not in classes]
    if unused:
        print_log(
            f'{ann_file}: categories not in the config, left out: {shortened(unused)}', 'current'
        )


def read_annotations(
    ann_file: Path, full: bool, needs_truth: bool = True
) -> tuple[list[dict], dict | None]:
    """Categories of an annotation file and, unless it is huge, all of its content.

    Args:
        ann_file: A COCO file.
        full: Read all of a huge file too.
        needs_truth: Whether it must have annotations.

    Raises:
        DataError: It is no JSON, or lacks one of COCO's lists.
    """
    if ann_file.stat().st_size > FULL_JSON_BYTES and not full:
        text = ann_file.read_text(encoding='utf-8', errors='replace')
        try:
            start = text.index('[', text.rindex('"categories"'))
            return json.JSONDecoder().raw_decode(text, start)[0], None
        except ValueError:  # which reading all of it explains
            pass
    content = read_coco(ann_file, needs_truth)
    return content['categories'], content


def raise_first_error(found: Iterable[Finding]) -> None:
    """DataError with the first finding that is an error, and how many more there are."""
    errors = [finding for finding in found if finding.severity == 'error']
    if errors:
        more = f' {len(errors) - 1} more: python tools/data.py check.' if len(errors) > 1 else ''
        raise DataError(errors[0].message + more)


def report(found: Iterable[Finding]) -> None:
    """Log findings that are no errors, a line for each kind."""
    for line in lines(found):
        print_log(line, 'current', logging.WARNING)


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


def _check_targets(ann_file: Path, content: dict, classes: tuple[str, ...], folder: Path) -> None:
    """DataError or a line for what a model would learn or be judged by, though it can't be meant."""
    name = str(ann_file)
    found = [
        *box_findings(name, content, folder),
        *segment_findings(name, content, folder),
        *class_findings(name, classes, object_counts(content)),
    ]
    found = [finding for finding in found if finding.kind not in _NOT_LOGGED]
    raise_first_error(found)
    report(found)


def _check_images(
    ann_file: Path, content: dict, image_dir: Path, steps: list[Mapping], full: bool
) -> None:
    paths = {image_dir / image['file_name']: image for image in content['images']}
    for path in paths:
        require_within(path, [os.path.abspath(image_dir)])
    require_files(ann_file, list(paths))
    bands = BandChecks(ann_file, steps)
    for path in some(list(paths), full, 'images'):
        if is_cut_off(path):
            raise DataError(f'{path} is cut off.')
        header = read_header(path)
        (width, height), turned = loaded_size(header, steps)
        bands.add(path, header)
        stated = paths[path]
        if (width, height) != (stated['width'], stated['height']):
            raise DataError(
                f'{path} is {width} x {height}, but {ann_file} says '
                f'{stated["width"]} x {stated["height"]}.{exif_advice(turned)}'
            )
    bands.report()
