"""Annotations of COCO's sample with detections as a detector of middling quality makes them.

The detections are the true objects, perturbed: some missed, small ones more often; boxes and masks moved
and scaled; some of another class; some found twice; some of nothing. Scores are high where a detection
is right and low where it is not, but overlap; one in seven wrong detections is as sure as a right one.
"""

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from downstream.data.run_lengths import encoded
from downstream.detection.coco_evaluation import Detections, Rules, mask_areas
from tests.conftest import ROOT

FOLDER = ROOT.parent / 'shared' / 'data' / 'tiny_coco' / 'annotations'


def sample(*parts: str) -> dict:
    """The annotations of the sample's ``parts``, one set; the test skips where they are absent."""
    contents = []
    for part in parts:
        path = FOLDER / f'instances_{part}2017.json'
        if not path.is_file():
            pytest.skip(f'{path} is not there')
        contents.append(json.loads(path.read_text()))
    images = {one['id']: one for content in contents for one in content['images']}
    annotations = {one['id']: one for content in contents for one in content['annotations']}
    return {
        'images': list(images.values()),
        'annotations': list(annotations.values()),
        'categories': contents[0]['categories'],
    }


def perturbed(truth: dict, seed: int, masks: bool = False) -> Detections:
    """Detections of ``truth``."""
    rng = np.random.default_rng(seed)
    categories = [one['id'] for one in truth['categories']]
    objects = {one['id']: [] for one in truth['images']}
    for one in truth['annotations']:
        if not one['iscrowd']:
            objects[one['image_id']].append(one)
    rows = [
        row
        for image in truth['images']
        for row in of_image(rng, image, objects[image['id']], categories, masks)
    ]
    counts = dict.fromkeys(objects, 0)
    for row in rows:
        counts[row[0]] += 1
    codes = [row[4] for row in rows] if masks else None
    return Detections(
        images=list(counts),
        counts=list(counts.values()),
        labels=np.array([row[1] for row in rows]),
        categories=categories,
        boxes=np.array([row[2] for row in rows]),
        scores=np.array([row[3] for row in rows]),
        masks=codes,
        areas=mask_areas(codes) if masks else None,
    )


def of_image(rng, image: dict, objects: list[dict], categories: list, masks: bool) -> list[tuple]:
    """Rows of image, label, box, score, mask."""
    found = []
    for one in objects:
        label = categories.index(one['category_id'])
        chance = 0.65 if one['area'] < 32**2 else 0.9 if one['area'] < 96**2 else 0.97
        if rng.random() > chance:
            continue
        loose = rng.random() < 0.15
        box = moved(rng, one['bbox'], 0.25 if loose else 0.05)
        confused = rng.random() < 0.08
        guess = int(rng.integers(len(categories))) if confused else label
        unsure = (loose or confused) and rng.random() < 0.85
        score = rng.beta(2, 3) if unsure else rng.beta(5, 1.5)
        found.append((guess, box, score, one))
        if confused:  # the right class too, less sure or surer
            found.append((label, moved(rng, box, 0.02), rng.beta(2, 2), one))
        if rng.random() < 0.1:
            found.append((label, moved(rng, box, 0.15), score * rng.random(), one))
    for _ in range(rng.poisson(4)):
        size = np.exp(rng.normal(4, 0.7, 2)).clip(4, 0.9 * min(image['width'], image['height']))
        corner = rng.random(2) * ([image['width'], image['height']] - size)
        guess = int(rng.integers(len(categories)))
        score = rng.beta(5, 1.5) if rng.random() < 0.03 else rng.beta(1, 5)
        found.append((guess, [*corner, *size], score, None))
    return [
        (image['id'], guess, [*map(float, box)], score, code(image, box, one) if masks else None)
        for guess, box, score, one in found
    ]


def moved(rng, box: list[float], amount: float) -> list[float]:
    """A box with every side moved by a part of its length."""
    x, y, width, height = box
    left, top, right, bottom = rng.normal(0, amount, 4)
    return [
        x + left * width,
        y + top * height,
        max(1, width * (1 + right - left)),
        max(1, height * (1 + bottom - top)),
    ]


def code(image: dict, box: list[float], one: dict | None) -> dict:
    """The mask of an object, brought into a box; without an object the box."""
    height, width = image['height'], image['width']
    x, y, w, h = map(float, box)
    if one is None or isinstance(one['segmentation'], dict):
        return rle.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width)[0]
    x0, y0, w0, h0 = one['bbox']
    scale, shift = np.array([w / w0, h / h0]), np.array([x, y])
    polygons = [
        ((np.reshape(part, (-1, 2)) - [x0, y0]) * scale + shift).flatten().tolist()
        for part in one['segmentation']
    ]
    return encoded(polygons, height, width)


def rules(truth: dict) -> Rules:
    """COCO's own for all images and categories."""
    return Rules(
        [one['id'] for one in truth['images']],
        [one['id'] for one in truth['categories']],
        np.linspace(0.5, 0.95, 10),
    )


def names(truth: dict) -> tuple[str, ...]:
    return tuple(one['name'] for one in truth['categories'])
