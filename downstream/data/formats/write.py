"""A data set -> the files that a config names: COCO annotations, lists of images, index masks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from backbones.errors import DataError
from downstream.atomic import atomic
from downstream.data.files import IGNORED, SAMPLE, exif_advice
from downstream.data.images.read import read_header

from .found import Found, Instances, Masks
from .mask_pixels import has_colors, to_indices
from .polygons import class_of_categories, draw


@dataclass(frozen=True)
class Written:
    """What a config says of a data set.

    Attributes:
        folder: Where files were written.
        classes: Names of the classes.
        datasets: Part -> arguments of its data set: of ``CocoDataset`` data_root, ann_file and
            data_prefix, of ``BaseSegDataset`` also img_suffix, seg_map_suffix and
            reduce_zero_label. Paths are absolute.
        lists: Part -> the list of its images, a name a line.
    """

    folder: Path
    classes: tuple[str, ...]
    datasets: dict[str, dict]
    lists: dict[str, Path]


def write(found: Found, folder: Path) -> Written:
    """Write what a config needs beside the images, which stay where they are.

    A COCO file or masks of the set that can be used as they are, are. Files appear complete or not at
    all.

    Args:
        found: The set.
        folder: A folder for the files; it is made.

    Raises:
        DataError: A mask has a value that is no class, or another size than its image.
    """
    folder = Path(os.path.abspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    datasets, lists = {}, {}
    for name, part in found.parts.items():
        if isinstance(part, Instances):
            datasets[name] = _write_instances(part, folder / f'{name}.json')
            names = [image['file_name'] for image in part.coco['images']]
        else:
            datasets[name] = _write_masks(part, found.classes, name, folder)
            names = [image for image, _ in part.pairs]
        lists[name] = folder / f'{name}.images.txt'
        with atomic(lists[name]) as file:
            file.writelines(f'{part.root / image}\n' for image in names)
    return Written(folder, found.classes, datasets, lists)


def _write_instances(part: Instances, path: Path) -> dict:
    if part.file is None:
        write_coco(part.coco, path)
    return dict(
        data_root=f'{part.root}/',
        ann_file=str(part.file.absolute() if part.file else path),
        data_prefix=dict(img=''),
    )


def write_coco(coco: dict, path: Path) -> None:
    """Write a COCO dict, entry by entry: the text of a large one would need gigabytes."""
    with atomic(path) as file:
        file.write('{')
        for place, (key, value) in enumerate(coco.items()):
            file.write(f'{", " if place else ""}{json.dumps(key)}: ')
            if isinstance(value, list):
                _write_list(file, value)
            else:
                file.write(json.dumps(value))
        file.write('}')


def _write_list(file, entries: Iterable[dict]) -> None:
    file.write('[')
    for place, entry in enumerate(entries):
        file.write(',\n' if place else '')
        file.write(json.dumps(entry, ensure_ascii=False))
    file.write(']')


def _write_masks(part: Masks, classes: tuple[str, ...], name: str, folder: Path) -> dict:
    """The data set's arguments; masks are written unless those of the set can be used."""
    ready = _ready_arguments(part, len(classes))
    if ready is not None:
        arguments, names = ready
    else:
        masks = folder / 'masks'
        for image, pixels in index_masks(part, classes, name):
            write_mask(pixels, masks / name / f'{image}.png')
        # Images of any suffix in one list; x.jpg and x.png have masks of their own.
        names = [image for image, _ in part.pairs]
        arguments = dict(
            data_prefix=dict(img_path=f'{part.root}', seg_map_path=str(masks / name)),
            img_suffix='',
            seg_map_suffix='.png',
            reduce_zero_label=False,
        )
    path = folder / f'{name}.txt'
    with atomic(path) as file:
        file.writelines(f'{line}\n' for line in names)
    return dict(data_root=f'{part.root}/', ann_file=str(path), **arguments)


def _ready_arguments(part: Masks, classes: int) -> tuple[dict, list[str]] | None:
    """Arguments of a data set that reads the set's own masks, and the names for its list."""
    shift = _shift(part.values, classes)
    if part.instances is not None or shift is None or not _are_indices(part):
        return None
    folders = [
        os.path.commonpath([os.path.dirname(path) for path in side]) for side in zip(*part.pairs)
    ]
    images, masks = (
        [os.path.relpath(path, folder or '.') for path in side]
        for side, folder in zip(zip(*part.pairs), folders)
    )
    suffixes = _suffixes(images[0], masks[0])
    stems = [path.removesuffix(suffixes[0]) for path in images]
    if any(f'{stem}{suffixes[0]}' != path for stem, path in zip(stems, images)):
        return None
    if any(f'{stem}{suffixes[1]}' != path for stem, path in zip(stems, masks)):
        return None
    arguments = dict(
        data_prefix=dict(zip(('img_path', 'seg_map_path'), folders)),
        img_suffix=suffixes[0],
        seg_map_suffix=suffixes[1],
        reduce_zero_label=shift == 1,
    )
    return arguments, stems


def _shift(values: dict, classes: int) -> int | None:
    """0 if class k has value k, 1 if it has k + 1 and 0 is unlabelled; None if it is neither."""
    if has_colors(values):
        return None
    named = {key: k for key, k in values.items() if k != IGNORED}
    ignored = {key for key, k in values.items() if k == IGNORED} - {IGNORED}
    for shift in (0, 1):
        if (
            named == {k + shift: k for k in range(classes)}
            and ignored <= {0}
            and (shift or not ignored)
        ):
            return shift
    return None


def _are_indices(part: Masks) -> bool:
    """Whether mmseg reads class indices from the masks: PNG files of one 8-bit channel."""
    files = part.files()
    for path in files[:: max(1, len(files) // SAMPLE)]:
        with Image.open(path) as image:
            if image.format != 'PNG' or image.mode not in ('L', 'P'):
                return False
    return True


def _suffixes(image: str, mask: str) -> tuple[str, str]:
    """What differs between the names of an image and of its mask, from the last dot or underscore.

    ``a/b_leftImg8bit.png``, ``a/b_gtFine_labelIds.png`` -> ``_leftImg8bit.png``,
    ``_gtFine_labelIds.png``.
    """
    suffix = Path(image).suffix
    stem = image.removesuffix(suffix)
    if mask.startswith(stem):
        return suffix, mask[len(stem) :]
    equal = next(i for i, (a, b) in enumerate(zip(image, mask)) if a != b)
    end = max(image.rfind('_', 0, equal), image.rfind('/', 0, equal) + 1)
    return image[end:], mask[end:]


def index_masks(
    part: Masks, classes: tuple[str, ...], name: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Every image of a part with its mask of class indices, ``(H, W)`` of uint8.

    Raises:
        DataError: A mask has a value that is no class, or another size than its image.
    """
    objects: dict[int, list[dict]] = {}
    coco = part.instances.coco if part.instances else {'annotations': [], 'images': []}
    for annotation in coco['annotations']:
        objects.setdefault(annotation['image_id'], []).append(annotation)
    entries = {image['file_name']: image for image in coco['images']}
    class_of = class_of_categories(part.instances, classes) if part.instances else {}
    bar = tqdm(part.pairs, desc=f'masks of {name}', disable=len(part.pairs) < SAMPLE)
    for image, mask in bar:
        if mask is None:
            entry = entries[image]
            yield image, draw(entry, objects.get(entry['id'], ()), classes, class_of)
        else:
            pixels = to_indices(part.root / mask, part.values)
            _require_size(part.root / image, part.root / mask, pixels)
            yield image, pixels


def write_mask(pixels: np.ndarray, path: Path) -> None:
    """Write class indices ``(H, W)`` as an 8-bit PNG; its folder is made."""
    with atomic(path, 'wb') as file:
        Image.fromarray(pixels).save(file, 'PNG', compress_level=1)


def _require_size(image: Path, mask: Path, pixels: np.ndarray) -> None:
    header = read_header(image)
    size, turned = header.shown_size, header.turned
    if pixels.shape[::-1] != size:
        raise DataError(
            f'{mask} is {pixels.shape[1]} x {pixels.shape[0]}, but {image} is {size[0]} x {size[1]}.'
            + exif_advice(turned)
        )
