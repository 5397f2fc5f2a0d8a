"""Checks of a data set against the config before training starts: cheap ones on all, costly on some.

What they find would otherwise surface as a CUDA assert, an mAP of 0 or a crash after hours.
"""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from backbones.errors import ConfigError, DataError

from .reading import is_cut_off, require_within

# Above these sizes a set is checked in parts, so that a run on COCO or ADE20K starts in seconds.
_FULL_JSON_BYTES = 64 * 2**20
_FULL_FILES = 500
_SAMPLE = 100
_IGNORED = 255


def check_datasets(cfg: ConfigDict, loaders: Sequence[str], full: bool = False) -> None:
    """Check every data set that ``loaders`` of ``cfg`` read.

    Args:
        cfg: A complete config.
        loaders: ``'train'``, ``'val'``, ``'test'``.
        full: Open every image and mask, whatever it takes (a progress bar shows).

    Raises:
        DataError: Files are missing, cannot be read, or do not match the classes of the config.
        ConfigError: The heads of the model have another number of classes than the data.
    """
    classes_of: dict[str, tuple[str, ...]] = {}
    done = []
    for loader in loaders:
        dataset = _innermost(cfg.get(f'{loader}_dataloader'))
        if dataset is None or dataset in done:
            continue
        done.append(dataset)
        where = f'{loader}_dataloader.dataset'
        if dataset.type in ('CocoDataset', 'mmdet.CocoDataset'):
            classes_of[where] = _check_coco(where, dataset, full)
        elif cfg.get('default_scope') == 'mmseg':
            classes_of[where] = _check_masks(where, dataset, full)
    for where, classes in classes_of.items():
        first = next(iter(classes_of))
        if classes != classes_of[first]:
            raise ConfigError(
                f'{where} has the classes {_short(classes)}, but {first} has '
                f'{_short(classes_of[first])}; give both the same metainfo.'
            )
        _check_heads(cfg.model, where, len(classes))


def _innermost(loader: ConfigDict | None) -> ConfigDict | None:
    dataset = loader.dataset if loader else None
    while dataset is not None and 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def _short(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ', '.join(map(str, names[:limit])) + (', ...' if len(names) > limit else '')


def _check_heads(model: ConfigDict, where: str, count: int) -> None:
    model = model.get('module', model)
    roi_head = model.get('roi_head', {})
    heads = {'decode_head': model.get('decode_head'), 'auxiliary_head': model.get('auxiliary_head')}
    heads |= {f'roi_head.{key}': roi_head.get(key) for key in ('bbox_head', 'mask_head')}
    for name, head in heads.items():
        for part in head if isinstance(head, (list, tuple)) else [head]:
            if part and part.get('num_classes', count) != count:
                raise ConfigError(
                    f'model.{name} has num_classes={part.num_classes}, but {where} has {count} '
                    'classes; set it in every head (downstream.drop_in.num_classes does).'
                )


def _require_folder(where: str, key: str, folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f'{where}: the folder {folder} ({key}) does not exist.')


def _check_coco(where: str, dataset: ConfigDict, full: bool) -> tuple[str, ...]:
    """Check COCO annotations and their images; returns the classes of the config."""
    root = Path(dataset.get('data_root') or '')
    ann_file = root / dataset.ann_file
    image_dir = root / dataset.data_prefix.get('img', '')
    if not root.is_dir():
        raise DataError(
            f'{where}: the folder {root} (data_root) does not exist.' + _how_to_get(root)
        )
    if not ann_file.is_file():
        raise DataError(f'{where}: the annotation file {ann_file} (ann_file) does not exist.')
    _require_folder(where, 'data_prefix.img', image_dir)
    categories, content = _read_coco(ann_file, full)
    names = [category['name'] for category in categories]
    classes = _coco_classes(dataset)
    missing = [name for name in classes if name not in names]
    if missing:
        hint = get_close_matches(missing[0], names, 1)
        raise DataError(
            f'{ann_file} has no category {_short(missing)}'
            + (f' (but {hint[0]!r})' if hint else '')
            + f'; it has {_short(names)}. List the classes to learn in {where}.metainfo, '
            f'e.g. metainfo=dict(classes={tuple(names[:3])}).'
        )
    unused = [name for name in names if name not in classes]
    if unused:
        print_log(
            f'{ann_file}: categories not in the config, left out: {_short(unused)}', 'current'
        )
    if content is not None:
        _check_coco_content(ann_file, content, image_dir, full)
    return classes


def _coco_classes(dataset: ConfigDict) -> tuple[str, ...]:
    given = (dataset.get('metainfo') or {}).get('classes')
    if given is None:
        from mmdet.datasets import CocoDataset

        given = CocoDataset.METAINFO['classes']
    return (given,) if isinstance(given, str) else tuple(given)


def _how_to_get(root: Path) -> str:
    if root.name == 'shapes':
        return ' Make it with `python tools/make_shapes.py`.'
    return ' docs/data.md says where data sets come from and how they lie.'


def _read_coco(ann_file: Path, full: bool) -> tuple[list[dict], dict | None]:
    """Categories of an annotation file and, unless it is huge, all of its content."""
    advice = 'COCO instance annotations are a JSON object with images, annotations, categories.'
    text = ann_file.read_text(errors='replace')
    try:
        if len(text) > _FULL_JSON_BYTES and not full:
            start = text.index('[', text.rindex('"categories"'))
            return json.JSONDecoder().raw_decode(text, start)[0], None
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f'{ann_file} is no JSON or is cut off ({error}). {advice}') from error
    keys = ('images', 'annotations', 'categories')
    absent = [
        k for k in keys if not isinstance(content, dict) or not isinstance(content.get(k), list)
    ]
    if absent:
        raise DataError(f'{ann_file} has no list {_short(absent)}. {advice}')
    for key, wanted in (
        ('images', ('id', 'file_name', 'height', 'width')),
        ('annotations', ('image_id', 'category_id', 'bbox', 'area')),
        ('categories', ('id', 'name')),
    ):
        for entry in content[key]:
            lacking = [k for k in wanted if not isinstance(entry, dict) or k not in entry]
            if lacking:
                raise DataError(
                    f'{ann_file}: an entry of {key} lacks {_short(lacking)}: {entry!r:.200}'
                )
    return content['categories'], content


def _check_coco_content(ann_file: Path, content: dict, image_dir: Path, full: bool) -> None:
    images = {image['id']: image for image in content['images']}
    if not images:
        raise DataError(f'{ann_file} lists no images.')
    known = {category['id'] for category in content['categories']}
    for annotation in content['annotations']:
        if annotation['image_id'] not in images:
            raise DataError(
                f'{ann_file}: annotation {annotation.get("id")} belongs to image '
                f'{annotation["image_id"]}, which the file does not list.'
            )
        if annotation['category_id'] not in known:
            raise DataError(
                f'{ann_file}: annotation {annotation.get("id")} has category '
                f'{annotation["category_id"]}, which the file does not list.'
            )
    paths = {image_dir / image['file_name']: image for image in images.values()}
    for path in paths:
        require_within(path, [os.path.abspath(image_dir)])
    _require_files(ann_file, list(paths))
    for path in _some(list(paths), full, 'images'):
        width, height = open_image(path).size
        if is_cut_off(path):
            raise DataError(f'{path} is cut off.')
        stated = paths[path]
        if (width, height) != (stated['width'], stated['height']):
            raise DataError(
                f'{path} is {width} x {height}, but {ann_file} says '
                f'{stated["width"]} x {stated["height"]}.'
            )


def _require_files(listed_in: Path, paths: list[Path]) -> None:
    there = {
        folder: set(os.listdir(folder)) if folder.is_dir() else set()
        for folder in {path.parent for path in paths}
    }
    lost = [path for path in paths if path.name not in there[path.parent]]
    if lost:
        raise DataError(
            f'{len(lost)} of {len(paths)} files of {listed_in} are missing, the first: {lost[0]}'
        )


def _some(paths: list[Path], full: bool, what: str) -> Iterable[Path]:
    """All paths, or an even sample of many."""
    if full:
        return tqdm(paths, desc=f'checking {what}', disable=len(paths) < _FULL_FILES)
    return paths if len(paths) <= _FULL_FILES else paths[:: len(paths) // _SAMPLE]


def open_image(path: Path) -> Image.Image:
    """The image in ``path``, its header read; DataError if it is none."""
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f'{path} cannot be read as an image: {error}') from error


def _check_masks(where: str, dataset: ConfigDict, full: bool) -> tuple[str, ...]:
    """Check images and masks of a segmentation set; returns its classes."""
    from mmseg.registry import DATASETS

    cls = DATASETS.get(dataset.type)
    if cls is None:
        raise ConfigError(f'{where}.type={dataset.type!r} is not a registered data set.')
    classes = (dataset.get('metainfo') or {}).get('classes') or cls.METAINFO.get('classes')
    if not classes:
        raise ConfigError(f'{where} states no classes; give it metainfo=dict(classes=...).')
    root = Path(dataset.get('data_root') or '')
    if not root.is_dir():
        raise DataError(
            f'{where}: the folder {root} (data_root) does not exist.' + _how_to_get(root)
        )
    folders = {key: root / dataset.data_prefix[key] for key in ('img_path', 'seg_map_path')}
    for key, folder in folders.items():
        _require_folder(where, f'data_prefix.{key}', folder)
    defaults = _init_defaults(cls)
    image_suffix = dataset.get('img_suffix', defaults['img_suffix'])
    mask_suffix = dataset.get('seg_map_suffix', defaults['seg_map_suffix'])
    reduces = dataset.get('reduce_zero_label', defaults['reduce_zero_label'])
    images = sorted(folders['img_path'].rglob(f'*{image_suffix}'))
    if dataset.get('ann_file') and (root / dataset.ann_file).is_file():
        listed = (root / dataset.ann_file).read_text().split('\n')
        images = [folders['img_path'] / f'{n.strip()}{image_suffix}' for n in listed if n.strip()]
    if not images:
        raise DataError(f'{where}: no *{image_suffix} in {folders["img_path"]}.')
    for path in images:
        require_within(path, [os.path.abspath(folders['img_path'])])
    masks = {
        folders['seg_map_path']
        / path.relative_to(folders['img_path']).as_posix().replace(image_suffix, mask_suffix): path
        for path in images
    }
    _require_files(folders['seg_map_path'], list(masks))
    for mask_path in _some(list(masks), full, 'masks'):
        mask = open_image(mask_path)
        for path in (mask_path, masks[mask_path]):
            if is_cut_off(path):
                raise DataError(f'{path} is cut off.')
        if mask.size != open_image(masks[mask_path]).size:
            raise DataError(f'{mask_path} and {masks[mask_path]} differ in size.')
        check_mask_values(mask_path, np.asarray(mask), len(classes), reduces)
    return tuple(classes)


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
