"""COCO: ``annotations/instances_<part>.json`` and a folder of images for each part."""

from __future__ import annotations

from pathlib import Path

from downstream.data.formats.found import Found
from downstream.data.formats.write import write_coco

from .parts import place_image


def write(found: Found, folder: Path, copy: bool) -> list[str]:
    """Write the set; COCO holds everything."""
    (folder / 'annotations').mkdir()
    for name, part in found.detection_parts().items():
        for image in part.coco['images']:
            place_image(part.root / image['file_name'], folder / name / image['file_name'], copy)
        write_coco(part.coco, folder / 'annotations' / f'instances_{name}.json')
    return []
