"""Predictions or ground truth on an image: objects with their boxes, masks and names, or a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from .colors import class_palette
from .labels import free_place, put_text, text_mask, text_px
from .masks import pixels_of
from .shapes import draw_box, draw_region, line_px

# The longer side at which the places of names in a label map are looked for.
_SEARCHED_PX = 512
_PIXELS_AT_ONCE = 4_000_000
# Names are written where a circle as high as this many heights of the font fits into the region.
_ROOM = 1.2


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray | None = None,
    masks: np.ndarray | Sequence[np.ndarray | Mapping] | None = None,
    classes: Sequence[str] = (),
    *,
    captions: Sequence[str] | None = None,
    crowds: Sequence[bool] | np.ndarray | None = None,
    min_score: float = 0.0,
    alpha: float = 0.45,
) -> np.ndarray:
    """An image with its objects: boxes, masks, class names and scores; the best scores on top.

    Args:
        image: BGR ``(H, W, 3)`` of uint8; it is not changed.
        boxes: ``(N, 4)``: left, top, right, bottom in pixels.
        labels: ``(N,)``, places in ``classes``.
        scores: ``(N,)``, 0 to 1. None, e.g. for ground truth: none are written.
        masks: For each object ``(H, W)`` of bool or of uint8, or a run-length code of COCO's form.
        classes: Names; a class without one is written as its number.
        captions: Texts in place of names and scores.
        crowds: Of ground truth, whether an object is a crowd, which is named as such; None: none is.
        min_score: Objects below it are left out.
        alpha: How opaque masks are, 0 to 1.

    Returns:
        The picture, BGR, of the image's size.
    """
    picture = np.ascontiguousarray(image).copy()
    boxes, classes_of = np.asarray(boxes, float).reshape(-1, 4), np.asarray(labels, int).ravel()
    shown = np.isfinite(boxes).all(1)  # a diverged model predicts boxes that are none
    order: np.ndarray = np.arange(len(boxes))
    if scores is not None:
        ranked = np.asarray(scores, float)
        order = np.argsort(ranked, kind='stable')
        shown &= ranked >= min_score
    order = order[shown[order]]
    if not len(order):
        return picture
    palette = _bgr(classes, int(classes_of.max()) + 1)
    colors = [palette[label] for label in classes_of]
    if masks is not None:
        for one in order:
            pixels, place = pixels_of(masks[one])
            draw_region(picture, pixels, colors[one], alpha, place=place)
    for one in order:
        draw_box(picture, boxes[one], colors[one])
    texts = captions
    if texts is None:
        texts = [_name(classes, label) for label in classes_of]
        if scores is not None:
            texts = [f'{text} {score:.2f}' for text, score in zip(texts, scores)]
    if crowds is not None:
        texts = [f'{text} crowd' if crowd else text for text, crowd in zip(texts, crowds)]
    _draw_labels(picture, [(boxes[i], texts[i], colors[i]) for i in order[::-1]])
    return picture


def draw_segmentation(
    image: np.ndarray,
    label_map: np.ndarray,
    classes: Sequence[str] = (),
    alpha: float = 0.5,
    *,
    with_names: bool = True,
) -> np.ndarray:
    """An image tinted by the class of each pixel, with the names of its larger regions.

    Args:
        image: BGR ``(H, W, 3)`` of uint8; it is not changed.
        label_map: ``(H, W)`` of integers. Pixels outside of 0 to ``len(classes) - 1``, e.g. 255 for
            unlabelled ones, stay as they are.
        classes: Names.
        alpha: How opaque the colours are, 0 to 1.
        with_names: Whether names are written.

    Returns:
        The picture, BGR, of the image's size.
    """
    count = len(classes) or 255
    label_map = np.asarray(label_map)
    # One more class for what has none.
    colors = np.array([*_bgr(classes, count)[:count], (0, 0, 0)], np.uint8)
    picture, pixels = np.empty(image.shape, np.uint8), np.zeros(count + 1, int)
    # Some rows at a time: intermediate arrays are many times as large as the image.
    step = max(1, _PIXELS_AT_ONCE // max(1, label_map.shape[1]))
    for top in range(0, len(label_map), step):
        rows = slice(top, top + step)
        index = _indices(label_map[rows], count)
        tints = np.take(colors, index, axis=0)
        picture[rows] = cv2.addWeighted(image[rows], 1 - alpha, tints, alpha, 0)
        present = np.bincount(index.ravel(), minlength=count + 1)
        pixels += present
        if present[count]:
            cv2.copyTo(image[rows], (index == count).view(np.uint8), picture[rows])
    if with_names:
        named = [(int(one), _name(classes, one)) for one in np.flatnonzero(pixels[:count])]
        _draw_names(picture, label_map, named, colors.tolist())
    return picture


def _indices(label_map: np.ndarray, count: int) -> np.ndarray:
    """Labels as uint16, which holds the classes of all data sets; ``count`` where there is none."""
    return np.where((label_map >= 0) & (label_map < count), label_map, count).astype(np.uint16)


def _bgr(classes: Sequence[str], count: int) -> list[tuple[int, int, int]]:
    """At least ``count`` colours for OpenCV."""
    palette = class_palette([*classes, *[''] * (count - len(classes))])
    return [tuple(color) for color in palette[:, ::-1].tolist()]


def _name(classes: Sequence[str], label: int) -> str:
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def _draw_labels(picture: np.ndarray, labels: list[tuple]) -> None:
    """Write texts at boxes; the first are placed first and lie on top."""
    px, border = text_px(picture), (line_px(picture) + 1) // 2
    taken: np.ndarray = np.empty((0, 4))
    places: list[tuple[int, int]] = []
    for box, text, _ in labels:
        height, width = text_mask(text, px).shape
        outer = np.add(box, (-border, -border, border, border))
        x, y = free_place(outer, (width, height), picture.shape[:2], taken)
        places.append((x, y))
        taken = np.vstack([taken, (x, y, x + width, y + height)])
    for (_, text, color), (x, y) in zip(labels[::-1], places[::-1]):
        put_text(picture, text, x, y, color, px)


def _draw_names(
    picture: np.ndarray, label_map: np.ndarray, named: list[tuple[int, str]], colors: list
) -> None:
    """Write the name of each class in the middle of its thickest part, where it has room."""
    px = text_px(picture)
    longest = max(label_map.shape)
    step = max(1, -(-longest // _SEARCHED_PX))
    coarse = label_map[::step, ::step]
    labels = []
    for number, name in named:
        x, y, radius = _thickest(coarse == number)
        if 2 * radius * step >= _ROOM * px:
            labels.append((x * step, y * step, radius, name, colors[number]))
    for x, y, _, name, color in sorted(labels, key=lambda label: label[2]):
        height, width = text_mask(name, px).shape
        left = int(np.clip(x - width // 2, 0, max(0, picture.shape[1] - width)))
        top = int(np.clip(y - height // 2, 0, max(0, picture.shape[0] - height)))
        put_text(picture, name, left, top, color, px)


def _thickest(region: np.ndarray) -> tuple[int, int, float]:
    """Centre and radius of the largest circle in a region ``(H, W)`` of bool."""
    # A frame of zeros: the border of the image is a border of the region.
    depth = cv2.distanceTransform(np.pad(region.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = float(depth.max())
    # Of many circles as large, as in a bar, the one in the middle.
    points = np.argwhere(depth >= 0.95 * deepest)
    y, x = points[((points - points.mean(0)) ** 2).sum(1).argmin()]
    return int(x), int(y), deepest
