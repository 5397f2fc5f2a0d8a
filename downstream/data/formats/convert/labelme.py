"""labelme: a JSON file of shapes beside each image."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from downstream.data.formats.found import Found
from downstream.data.run_lengths import compressed

from .parts import ImageObjects, classes_of_categories, images_of, place_image


def write(found: Found, folder: Path, copy: bool) -> list[str]:
    """Write polygons, run-length codes as bitmaps, and boxes without a mask as rectangles."""
    crowds = 0
    for name, part in found.detection_parts().items():
        class_of = classes_of_categories(part)
        target = folder if name == 'all' else folder / name
        target.mkdir(exist_ok=True)
        for image in images_of(part, name):
            place_image(image.source, target / image.name, copy)
            shapes = []
            for number, one in enumerate(image.objects):
                if one['iscrowd']:
                    crowds += 1
                    continue
                shapes += _shapes(one, found.classes[class_of[one['category_id']]], number)
            content = _content(image, shapes)
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (target / f'{image.stem}.json').write_text(text, encoding='utf-8')
    (folder / 'labels.txt').write_text(''.join(f'{n}\n' for n in found.classes), encoding='utf-8')
    return [f'{crowds} crowds are left out: labelme has none'] if crowds else []


def _content(image: ImageObjects, shapes: list[dict]) -> dict:
    return {
        'version': '5.4.1',
        'flags': {},
        'shapes': shapes,
        'imagePath': image.name,
        'imageData': None,
        'imageHeight': image.height,
        'imageWidth': image.width,
    }


def _shapes(annotation: dict, label: str, group: int) -> list[dict]:
    """The shapes of an object; those of one in several pieces have a common group."""
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, dict):
        return [_shape(label, 'mask', *_bitmap(segmentation))]
    if not segmentation:
        x, y, w, h = annotation['bbox']
        return [_shape(label, 'rectangle', [[x, y], [x + w, y + h]])]
    shapes = [
        _shape(label, 'polygon', [list(point) for point in zip(flat[0::2], flat[1::2])])
        for flat in segmentation
    ]
    for shape in shapes if len(shapes) > 1 else ():
        shape['group_id'] = group
    return shapes


def _shape(label: str, kind: str, points: list, mask: str | None = None) -> dict:
    shape: dict = {
        'label': label,
        'points': points,
        'group_id': None,
        'shape_type': kind,
        'flags': {},
    }
    return shape if mask is None else {**shape, 'mask': mask}


def _bitmap(segmentation: dict) -> tuple[list, str]:
    """Corners of a mask, the last pixel included, and its pixels as PNG in base 64."""
    pixels = rle.decode(compressed(segmentation)).astype(bool)
    rows, columns = np.nonzero(pixels)
    top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
    file = io.BytesIO()
    Image.fromarray(pixels[top : bottom + 1, left : right + 1]).save(file, 'PNG')
    corners = [[int(left), int(top)], [int(right), int(bottom)]]
    return corners, base64.b64encode(file.getvalue()).decode()
