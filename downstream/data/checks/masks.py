"""Checks of images and masks for semantic segmentation."""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import ConfigError, DataError
from downstream.data.files import (
    exif_advice,
    loaded_size,
    open_image,
    require_files,
    require_folder,
    require_root,
    shortened,
    some,
)
from downstream.data.findings.classes import class_list_findings
from downstream.data.findings.finding import lines
from downstream.data.findings.masks import (
    counted,
    form_finding,
    index_values,
    nothing_to_learn,
    set_findings,
    value_finding,
)
from downstream.data.images.read import read_header
from downstream.data.pipelines import steps_of
from downstream.data.reading import is_cut_off, require_within

from .bands import BandChecks


def check_masks(where: str, dataset: ConfigDict, full: bool) -> tuple[str, ...]:
    """Check images and masks of a segmentation set.

    Args:
        where: The key of ``dataset`` in the config, for messages.
        dataset: Config of a ``BaseSegDataset`` or a class of it.
        full: Open every mask.

    Returns:
        The classes.

    Raises:
        DataError: Something is missing, cannot be read, or contradicts the config.
        ConfigError: The type is not registered, or no classes are stated.
    """
    options, classes = mask_options(where, dataset)
    root = Path(dataset.get('data_root') or '')
    require_root(where, root)
    pairs = image_of_mask(where, root, dataset, options)
    folder = root / dataset.data_prefix['seg_map_path']
    require_files(folder, list(pairs))
    reduced = bool(options['reduce_zero_label'])
    steps = list(steps_of(dataset.get('pipeline') or ()))
    bands = BandChecks(where, steps)
    pixels = {}
    for mask_path in some(list(pairs), full, 'masks'):
        mask = _checked_mask(mask_path, pairs[mask_path], steps, bands)
        pixels[mask_path] = check_mask_values(mask_path, mask, len(classes), reduced)
    bands.report()
    # Two parts may share a folder; then their lists tell them apart.
    listed = dataset.get('ann_file')
    name = f'{folder} ({Path(listed).name})' if listed else str(folder)
    _check_targets(name, list(pairs), pixels, classes, reduced, not dataset.get('test_mode'))
    return classes


def mask_options(where: str, dataset: ConfigDict) -> tuple[dict, tuple[str, ...]]:
    """The values of a segmentation set with the defaults of its class, and its classes.

    Args:
        where: The key of ``dataset`` in the config, for messages.
        dataset: Config of a ``BaseSegDataset`` or a class of it.

    Raises:
        ConfigError: The type is not registered, or no classes or one of them twice are stated.
    """
    from mmseg.registry import DATASETS

    cls = DATASETS.get(dataset.type)
    if cls is None:
        raise ConfigError(f'{where}.type={dataset.type!r} is not a registered data set.')
    given = (dataset.get('metainfo') or {}).get('classes')
    classes = given or cls.METAINFO.get('classes')
    if not classes:
        raise ConfigError(f'{where} states no classes; give it metainfo=dict(classes=...).')
    for finding in class_list_findings(where, given):
        raise ConfigError(finding.message)
    return {**_init_defaults(cls), **dataset}, tuple(classes)


def _checked_mask(
    path: Path, image_path: Path, steps: Sequence[Mapping], bands: BandChecks
) -> np.ndarray:
    """The mask in ``path``; DataError unless it and its image can be read and have one size."""
    mask = open_image(path)
    for file in (path, image_path):
        if is_cut_off(file):
            raise DataError(f'{file} is cut off.')
    if mask.format == 'JPEG':
        raise DataError(f'{path} is a JPEG file, which changes class indices. Save masks as PNG.')
    header = read_header(image_path)
    size, turned = loaded_size(header, steps)
    bands.add(image_path, header)
    if mask.size != size:
        raise DataError(
            f'{path} is {mask.width} x {mask.height}, but {image_path} is {size[0]} x {size[1]}.'
            + exif_advice(turned)
        )
    return np.asarray(mask)


def _check_targets(
    where: str,
    paths: Sequence[Path],
    pixels: Mapping[Path, Mapping[int, int]],
    classes: Sequence[str],
    reduced: bool,
    trained: bool,
) -> None:
    """DataError or a line for what masks have in common and cannot be meant."""
    values = index_values(len(classes), reduced)
    occurring = set().union(*pixels.values()) if pixels else set()
    rest = iter([path for path in paths if path not in pixels])
    # Before a sample condemns the set, the other masks are opened, up to the first that is sound.
    while trained and nothing_to_learn(where, occurring, values) and (path := next(rest, None)):
        occurring |= set(counted(np.asarray(open_image(path))))
    if trained and (nothing := nothing_to_learn(where, occurring, values)):
        raise DataError(nothing.message)
    found = set_findings(where, pixels, classes, values, trained=False)
    opened = (
        f' ({len(pixels)} of {len(paths)} masks were opened)' if len(pixels) < len(paths) else ''
    )
    for line in lines(found):
        print_log(line + opened, 'current', logging.WARNING)


def image_of_mask(where: str, root: Path, dataset: ConfigDict, options: dict) -> dict[Path, Path]:
    """The image of every mask that a data set expects.

    Args:
        where: The key of ``dataset`` in the config, for messages.
        root: Its ``data_root``.
        dataset: Config of a ``BaseSegDataset``.
        options: Its values with the defaults of its class.

    Raises:
        DataError: A folder does not exist, holds no images, or a listed name leads out of it.
    """
    folders = {key: root / dataset.data_prefix[key] for key in ('img_path', 'seg_map_path')}
    for key, folder in folders.items():
        require_folder(where, f'data_prefix.{key}', folder)
    image_suffix, mask_suffix = options['img_suffix'], options['seg_map_suffix']
    image_dir = folders['img_path']
    if dataset.get('ann_file') and (root / dataset.ann_file).is_file():
        lines = (root / dataset.ann_file).read_text().split('\n')
        names = [line.strip() for line in lines if line.strip()]
        pairs = [(f'{name}{image_suffix}', f'{name}{mask_suffix}') for name in names]
    else:
        images = sorted(image_dir.rglob(f'*{image_suffix}'))
        _report_other_suffixes(where, image_dir, image_suffix, len(images))
        names = [path.relative_to(image_dir).as_posix() for path in images]
        pairs = [(name, name.replace(image_suffix, mask_suffix)) for name in names]  # as mmseg does
    for image, _ in pairs:
        require_within(image_dir / image, [os.path.abspath(image_dir)])
    return {folders['seg_map_path'] / mask: image_dir / image for image, mask in pairs}


def _report_other_suffixes(where: str, folder: Path, suffix: str, found: int) -> None:
    """Log files of the image folder that ``suffix`` leaves out; DataError if it leaves no file."""
    others = Counter(
        path.suffix
        for path in folder.rglob('*')
        if path.is_file() and not path.name.endswith(suffix)
    )
    shown = shortened(f'{count} *{ending}' for ending, count in others.most_common())
    advice = f' It has {shown}: set {where}.img_suffix (and seg_map_suffix).' if others else ''
    if not found:
        raise DataError(f'{where}: no *{suffix} in {folder}.{advice}')
    if others:
        print_log(
            f'{folder}: {found} files end in {suffix} (img_suffix) and are used; {shown} are not.',
            'current',
        )


def _init_defaults(cls: type) -> dict:
    """Default arguments of a data set's class and of its bases."""
    return {
        name: parameter.default
        for base in reversed(cls.__mro__)
        if '__init__' in vars(base)
        for name, parameter in inspect.signature(vars(base)['__init__']).parameters.items()
    }


def check_mask_values(
    path: Path, mask: np.ndarray, classes: int, reduce_zero_label: bool
) -> Counter[int]:
    """How many pixels of a mask ``(H, W)`` have each value.

    Raises:
        DataError: It has several channels, or a value that is neither a class nor unlabelled.
    """
    finding = form_finding(path, mask)
    if finding is None:
        pixels = counted(mask)
        finding = value_finding(path, pixels, classes, reduce_zero_label)
    if finding is not None:
        raise DataError(finding.message)
    return pixels
