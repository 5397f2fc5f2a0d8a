"""Pictures of a data set with its annotations, classes and sizes at the trained scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backbones.errors import ConfigError
from downstream.data.checks.bands import Loading
from downstream.data.findings.boxes import trained_factor
from downstream.data.formats.mask_pixels import packed_colors
from downstream.data.run_lengths import decoded
from downstream.drawing import (
    captioned,
    class_palette,
    draw_detections,
    draw_segmentation,
    file_content,
    fitted,
    legend,
    text_px,
)

from .parts import Part
from .pictures import load

_LONGEST_PX = 1200


def write_pictures(
    parts: Sequence[Part], folder: Path, count: int = 24, only: str | None = None
) -> list[Path]:
    """Draw an even choice of each part's images with their annotations.

    The label of an object is its class and its size at the scale that it is trained at.

    Args:
        parts: Of a data set.
        folder: Where the pictures go: ``<part>_<number>_<name>.jpg``.
        count: Pictures of each part.
        only: A class; images with an object of it are chosen.

    Returns:
        Their paths.

    Raises:
        ConfigError: There is no class ``only``.
    """
    names = {name for part in parts for name in part.classes}
    if only is not None and only not in names:
        raise ConfigError(f'there is no class {only!r}; there are {", ".join(sorted(names))}.')
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part in parts:
        draw, images = _drawer(part, only)
        step = max(1, len(images) // count)
        for number, path in enumerate(images[::step][:count], 1):
            picture = draw(path)
            target = folder / f'{part.name}_{number:03d}_{path.stem}.jpg'
            target.write_bytes(file_content(picture))
            written.append(target)
    return written


def _drawer(part: Part, only: str | None) -> tuple[Callable[[Path], np.ndarray], list[Path]]:
    """A function that draws an image of ``part``, and the images to choose from."""
    if part.content is None:
        mask_of = {image: mask for mask, image in part.image_of.items()}
        images = [path for path in part.images if path in mask_of]
        if only is not None:
            value = [v for v, index in part.values.items() if part.classes[index] == only]
            images = [p for p in images if np.isin(_mask(mask_of[p], part.coloured), value).any()]
        return lambda path: _segmented(path, mask_of[path], part), images
    name_of = {category['id']: category['name'] for category in part.content['categories']}
    objects = defaultdict(list)
    for annotation in part.content['annotations']:
        objects[annotation['image_id']].append(annotation)
    entries = {
        part.folder / image['file_name']: objects[image['id']]
        for image in part.content['images']
        if only is None or any(name_of[one['category_id']] == only for one in objects[image['id']])
    }
    return lambda path: _with_objects(path, entries[path], name_of, part), list(entries)


def _with_objects(path: Path, annotations: list[dict], name_of: dict, part: Part) -> np.ndarray:
    image = _bgr(path, part.loading)
    height, width = image.shape[:2]
    factor = trained_factor((width, height), part.scale)
    places = {name: index for index, name in enumerate(part.classes)}
    # Labels are written at the size that is looked at.
    picture, ratio = fitted(image, _LONGEST_PX, enlarge=max(height, width) < _LONGEST_PX // 2)
    masks, captions = [], []
    for annotation in annotations:
        region = np.zeros((height, width), np.uint8)
        if annotation.get('segmentation'):
            region = decoded(annotation['segmentation'], height, width).view(np.uint8)
        masks.append(_resized(region, picture))
        box_width, box_height = annotation['bbox'][2:]
        size = f'{box_width * factor:.0f}x{box_height * factor:.0f}'
        captions.append(f'{name_of[annotation["category_id"]]} {size}')
    boxes = np.array([one['bbox'] for one in annotations], float).reshape(-1, 4) * ratio
    boxes[:, 2:] += boxes[:, :2]
    names = [name_of[one['category_id']] for one in annotations]
    picture = draw_detections(
        picture,
        boxes,
        [places.get(name, 0) for name in names],
        masks=masks,
        classes=part.classes,
        captions=captions,
        crowds=[bool(one.get('iscrowd')) for one in annotations],
    )
    named = {places[name]: name for name in part.classes if name in names}
    return _explained(picture, path, (width, height), factor, named, part)


def _segmented(path: Path, mask_path: Path, part: Part) -> np.ndarray:
    image, mask = _bgr(path, part.loading), _mask(mask_path, part.coloured)
    classes = np.full(mask.shape, len(part.classes), np.uint16)
    for value, index in part.values.items():
        classes[mask == value] = index
    factor = trained_factor(image.shape[1::-1], part.scale)
    picture, _ = fitted(image, _LONGEST_PX, enlarge=max(image.shape) < _LONGEST_PX // 2)
    if classes.shape == image.shape[:2]:
        picture = draw_segmentation(picture, _resized(classes, picture), part.classes)
    named = {int(i): part.classes[i] for i in np.unique(classes) if i < len(part.classes)}
    return _explained(picture, path, image.shape[1::-1], factor, named, part)


def _bgr(path: Path, loading: Loading) -> np.ndarray:
    return np.ascontiguousarray(load(path, loading)[..., ::-1])


def _resized(values: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return cv2.resize(values, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _mask(path: Path, coloured: bool) -> np.ndarray:
    """Values ``(H, W)`` of a mask; colours are numbers 0xRRGGBB."""
    with Image.open(path) as image:
        if not coloured:
            return np.asarray(image)
        return packed_colors(image)


def _explained(
    picture: np.ndarray, path: Path, size: Sequence[int], factor: float, named: dict, part: Part
) -> np.ndarray:
    """A picture above its name, its sizes and its classes."""
    trained = f'trained at {size[0] * factor:.0f}x{size[1] * factor:.0f}'
    text = f'{path.name}  {size[0]}x{size[1]}, {trained}'
    explained = captioned(picture, text, below=True)
    if not named:
        return explained
    palette = class_palette(part.classes)[:, ::-1]
    return np.vstack([explained, legend(named, palette, picture.shape[1], text_px(picture))])
