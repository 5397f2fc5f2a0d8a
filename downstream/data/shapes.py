"""The embedded data set: coloured shapes with COCO instance annotations and ADE20K-style masks.

Every image is drawn from a seed, so that each machine makes the same data. Shapes overlap, their
sizes span COCO's small, medium and large, some images hold a crowd of tiny circles annotated as one
region (run-length code), and in each mask a strip stays unlabelled (value 0).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from backbones.errors import DataError
from downstream.atomic import atomic_path

VERSION = '3'
THINGS = ('circle', 'square', 'triangle')
HEIGHT, WIDTH = 256, 320
_MIN_VISIBLE_PIXELS = 60
_SPLITS = {'training': 0, 'validation': 1}


def make_shapes(root: Path, training: int = 64, validation: int = 24, seed: int = 0) -> bool:
    """Make the data set in the folder ``root``, completely or not at all.

    Files: ``images/<split>/*.jpg``, ``annotations/<split>/*.png`` and
    ``annotations/instances_<split>.json`` for the splits training and validation.

    Args:
        root: Where.
        training: Images of the training part.
        validation: Images of the validation part.
        seed: Sets of different seeds have no image in common; a larger set of one seed begins with the
            images of a smaller one.

    Returns:
        Whether anything was done: a data set of this version, size and seed is left as it is.

    Raises:
        DataError: ``root`` holds something else.
    """
    root = Path(root)
    label = {'version': VERSION, 'training': training, 'validation': validation}
    if seed:
        label['seed'] = seed
    stamp = root / 'shapes.json'
    if stamp.is_file() and json.loads(stamp.read_text()) == label:
        return False
    if root.exists() and any(root.iterdir()) and not stamp.is_file():
        raise DataError(
            f'{root} exists and is no data set of shapes; move it or name another folder.'
        )
    with atomic_path(root) as aside:
        for split, count in (('training', training), ('validation', validation)):
            _make_split(aside, split, count, seed)
        (aside / stamp.name).write_text(json.dumps(label))
        if root.exists():
            shutil.rmtree(root)
    return True


def _make_split(root: Path, split: str, count: int, seed: int) -> None:
    image_dir, mask_dir = root / 'images' / split, root / 'annotations' / split
    image_dir.mkdir(parents=True)
    mask_dir.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        # numpy pads with zeros: seed 0 gives the images that there were without a seed.
        rng = np.random.default_rng([_SPLITS[split], index, seed])
        image, mask, instances = draw(rng)
        name = f'shapes_{split}_{index:04d}'
        cv2.imwrite(str(image_dir / f'{name}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(mask_dir / f'{name}.png'), mask)
        images.append(
            {'id': index + 1, 'file_name': f'{name}.jpg', 'height': HEIGHT, 'width': WIDTH}
        )
        for instance in instances:
            annotations.append({'id': len(annotations) + 1, 'image_id': index + 1, **instance})
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(THINGS)]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """One image: BGR ``(H, W, 3)``, mask ``(H, W)`` of uint8, COCO annotations without ids."""
    low = rng.integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3)).astype(np.uint8)
    image = cv2.resize(low, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) // 3 + 40
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    owner = np.full((HEIGHT, WIDTH), -1)
    kinds = []
    if rng.random() < 0.25:
        _draw_crowd(rng, image, mask, owner)
        kinds.append((0, True))
    for _ in range(rng.integers(3, 8)):
        kind = int(rng.integers(len(THINGS)))
        radius = float(np.exp(rng.uniform(np.log(9), np.log(72))))
        center = rng.uniform((0.05 * WIDTH, 0.05 * HEIGHT), (0.95 * WIDTH, 0.95 * HEIGHT))
        pixels = _filled(_outline(kind, center, radius, rng.uniform(0, 2 * np.pi)))
        _paint(rng, image, pixels, kind)
        mask[pixels] = kind + 2  # 0 is unlabelled, 1 the background
        owner[pixels] = len(kinds)
        kinds.append((kind, False))
    instances = [
        _annotation(owner == i, kind, crowd)
        for i, (kind, crowd) in enumerate(kinds)
        if (owner == i).sum() >= _MIN_VISIBLE_PIXELS
    ]
    for i, _ in enumerate(kinds):
        if 0 < (owner == i).sum() < _MIN_VISIBLE_PIXELS:
            mask[owner == i] = 0  # too few pixels to recognise the shape: unlabelled, as in ADE20K
    noise = rng.normal(0, 6, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    mask[:, :4] = 0
    return image, mask, instances


def _draw_crowd(rng, image: np.ndarray, mask: np.ndarray, owner: np.ndarray) -> None:
    corner = rng.uniform((20, 20), (WIDTH - 90, HEIGHT - 70))
    for _ in range(14):
        pixels = _filled(_outline(0, corner + rng.uniform((0, 0), (70, 50)), 5, 0))
        _paint(rng, image, pixels, 0)
        mask[pixels] = 2
        owner[pixels] = 0


def _outline(kind: int, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    corners = {0: 48, 1: 4, 2: 3}[kind]
    turns = angle + np.arange(corners) * 2 * np.pi / corners
    # All kinds cover the area of a circle of 0.85 radius: no class is rarer in pixels.
    radius *= 0.85 * np.sqrt(2 * np.pi / (corners * np.sin(2 * np.pi / corners)))
    return center + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _filled(outline: np.ndarray) -> np.ndarray:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 1)
    return canvas.astype(bool)


def _paint(rng, image: np.ndarray, pixels: np.ndarray, kind: int) -> None:
    # A kind has a typical hue, red, green or blue, but some stray halfway to
    # the next: colour helps to learn in minutes, but only the outline decides.
    hue = (60 * kind + rng.normal(0, 20)) % 180
    color = np.array([[[hue, rng.integers(140, 256), rng.integers(140, 256)]]], np.uint8)
    image[pixels] = cv2.cvtColor(color, cv2.COLOR_HSV2BGR)[0, 0]


def _annotation(visible: np.ndarray, kind: int, crowd: bool) -> dict:
    code = rle.encode(np.asfortranarray(visible.astype(np.uint8)))
    segmentation: dict | list
    if crowd:
        segmentation = {'size': list(visible.shape), 'counts': _run_lengths(visible)}
    else:
        contours, _ = cv2.findContours(
            visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        segmentation = [c.flatten().tolist() for c in contours if len(c) >= 3]
    return {
        'category_id': kind + 1,
        'segmentation': segmentation,
        'bbox': [float(v) for v in rle.toBbox(code)],
        'area': float(rle.area(code)),
        'iscrowd': int(crowd),
    }


def _run_lengths(visible: np.ndarray) -> list[int]:
    """COCO's uncompressed code: lengths of alternating runs in column order, zeros first."""
    flat = np.concatenate([[0], visible.flatten(order='F').astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges, [visible.size]]))
    return [int(run) for run in runs]
