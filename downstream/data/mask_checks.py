"""Checks of images and masks for semantic segmentation."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import ConfigError, DataError

from .files import (
    exif_advice,
    loaded_size,
    open_image,
    require_files,
    require_folder,
    require_root,
    shortened,
    some,
)
from .reading import is_cut_off, require_within

_IGNORED = 255


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
    from mmseg.registry import DATASETS

    cls = DATASETS.get(dataset.type)
    if cls is None:
        raise ConfigError(f'{where}.type={dataset.type!r} is not a registered data set.')
    classes = (dataset.get('metainfo') or {}).get('classes') or cls.METAINFO.get('classes')
    if not classes:
        raise ConfigError(f'{where} states no classes; give it metainfo=dict(classes=...).')
    root = Path(dataset.get('data_root') or '')
    require_root(where, root)
    options = {**_init_defaults(cls), **dataset}
    pairs = _pairs(where, root, dataset, options)
    for mask_path in some(list(pairs), full, 'masks'):
        path = pairs[mask_path]
        mask = open_image(mask_path)
        for file in (mask_path, path):
            if is_cut_off(file):
                raise DataError(f'{file} is cut off.')
        size, turned = loaded_size(path, dataset.get('pipeline') or ())
        if mask.size != size:
            raise DataError(
                f'{mask_path} is {mask.width} x {mask.height}, but {path} is {size[0]} x {size[1]}.'
                + exif_advice(turned)
            )
        check_mask_values(
            mask_path, np.asarray(mask), len(classes), bool(options['reduce_zero_label'])
        )
    return tuple(classes)


def _pairs(where: str, root: Path, dataset: ConfigDict, options: dict) -> dict[Path, Path]:
    """The image of every mask."""
    folders = {key: root / dataset.data_prefix[key] for key in ('img_path', 'seg_map_path')}
    for key, folder in folders.items():
        require_folder(where, f'data_prefix.{key}', folder)
    image_suffix, mask_suffix = options['img_suffix'], options['seg_map_suffix']
    image_dir = folders['img_path']
    images = sorted(image_dir.rglob(f'*{image_suffix}'))
    if dataset.get('ann_file') and (root / dataset.ann_file).is_file():
        listed = (root / dataset.ann_file).read_text().split('\n')
        images = [image_dir / f'{name.strip()}{image_suffix}' for name in listed if name.strip()]
    else:
        _report_other_suffixes(where, image_dir, image_suffix, len(images))
    for path in images:
        require_within(path, [os.path.abspath(image_dir)])
    masks = {
        folders['seg_map_path']
        / path.relative_to(image_dir).as_posix().replace(image_suffix, mask_suffix): path
        for path in images
    }
    require_files(folders['seg_map_path'], list(masks))
    return masks


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
        for name, parameter in inspect.signature(base.__init__).parameters.items()
    }


def check_mask_values(path: Path, mask: np.ndarray, classes: int, reduce_zero_label: bool) -> None:
    """DataError unless each value of ``mask`` ``(H, W)`` is a class or unlabelled."""
    if mask.ndim != 2:
        raise DataError(f'{path} has shape {mask.shape}; a mask has one channel, of class indices.')
    values = Counter(dict(zip(*(part.tolist() for part in np.unique(mask, return_counts=True)))))
    first, last = (1, classes) if reduce_zero_label else (0, classes - 1)
    wrong = [
        v
        for v in values
        if not first <= v <= last and v != _IGNORED and not (reduce_zero_label and v == 0)
    ]
    if wrong:
        unlabelled = 'unlabelled 0 or 255' if reduce_zero_label else 'unlabelled 255'
        raise DataError(
            f'{path} has the value {wrong[0]} in {values[wrong[0]]} pixels; allowed for {classes} '
            f'classes: {first} to {last}, {unlabelled} (reduce_zero_label={reduce_zero_label}).'
        )
