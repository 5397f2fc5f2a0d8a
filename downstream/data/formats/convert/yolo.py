"""YOLO: ``data.yaml``, images, and a text file of boxes or polygons for each."""

from __future__ import annotations

from pathlib import Path

import yaml

from downstream.data.formats.found import Found
from downstream.data.formats.instances import Polygon

from .parts import classes_of_categories, images_of, place_image, polygons_of


def write(found: Found, folder: Path, copy: bool) -> list[str]:
    """Write polygons if every object has some, else boxes."""
    parts = found.detection_parts()
    objects = [
        one for part in parts.values() for one in part.coco['annotations'] if not one['iscrowd']
    ]
    as_polygons = all(one.get('segmentation') for one in objects)
    crowds = traced = 0
    for name, part in parts.items():
        class_of = classes_of_categories(part)
        (folder / 'labels' / name).mkdir(parents=True)
        for image in images_of(part, name):
            place_image(image.source, folder / 'images' / name / image.name, copy)
            lines = []
            for one in image.objects:
                if one['iscrowd']:
                    crowds += 1
                    continue
                polygons = polygons_of(one) if as_polygons else []
                traced += isinstance(one.get('segmentation'), dict) and as_polygons
                if polygons:
                    flat = _joined(polygons)
                    values = [
                        v / (image.height if i % 2 else image.width) for i, v in enumerate(flat)
                    ]
                else:
                    x, y, w, h = one['bbox']
                    values = [
                        (x + w / 2) / image.width,
                        (y + h / 2) / image.height,
                        w / image.width,
                        h / image.height,
                    ]
                lines.append(' '.join(map(str, [class_of[one['category_id']], *values])) + '\n')
            (folder / 'labels' / name / f'{image.stem}.txt').write_text(''.join(lines))
    content: dict = {
        'path': '.',
        **{_KEYS.get(name, name): f'images/{name}' for name in found.parts},
    }
    content['names'] = dict(enumerate(found.classes))
    (folder / 'data.yaml').write_text(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding='utf-8'
    )
    notes = []
    if crowds:
        notes.append(f'{crowds} crowds are left out: YOLO has none')
    if traced:
        notes.append(f'{traced} run-length codes are traced: outlines move by half a pixel')
    if objects and not as_polygons:
        notes.append('boxes are written: not all objects have polygons')
    return notes


# YOLO's file must name a folder for training.
_KEYS = {'all': 'train'}


def _joined(polygons: list[Polygon]) -> Polygon:
    """One polygon of several: seams of no width lead to each and back."""
    first, *others = polygons
    flat = [*first]
    for polygon in others:
        flat += [*first[:2], *polygon, *polygon[:2]]
    return [*flat, *first[:2]] if others else flat
