"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages`` and ``ImageSets/Main``."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from downstream.data.formats.found import Found

from .parts import ImageObjects, classes_of_categories, images_of, place_image


def write(found: Found, folder: Path, copy: bool) -> list[str]:
    """Write boxes; crowds are marked difficult. Coordinates count from 0, as other tools write them."""
    lists = folder / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    (folder / 'Annotations').mkdir()
    masks = 0
    for name, part in found.detection_parts().items():
        class_of = classes_of_categories(part)
        stems = []
        for image in images_of(part, name):
            place_image(image.source, folder / 'JPEGImages' / image.name, copy)
            tree = _annotation(image, class_of, found.classes)
            tree.write(folder / 'Annotations' / f'{image.stem}.xml', encoding='utf-8')
            stems.append(f'{image.stem}\n')
            masks += sum(bool(one.get('segmentation')) for one in image.objects)
        if name != 'all':
            (lists / f'{name}.txt').write_text(''.join(stems), encoding='utf-8')
    (folder / 'classes.txt').write_text(''.join(f'{n}\n' for n in found.classes), encoding='utf-8')
    return [f'{masks} masks are left out: VOC has boxes'] if masks else []


def _annotation(
    image: ImageObjects, class_of: dict[int, int], classes: tuple[str, ...]
) -> ElementTree.ElementTree:
    root = ElementTree.Element('annotation')
    _add(root, 'filename', image.name)
    size = ElementTree.SubElement(root, 'size')
    for key, value in (('width', image.width), ('height', image.height), ('depth', 3)):
        _add(size, key, value)
    for one in image.objects:
        element = ElementTree.SubElement(root, 'object')
        _add(element, 'name', classes[class_of[one['category_id']]])
        _add(element, 'difficult', one['iscrowd'])
        box = ElementTree.SubElement(element, 'bndbox')
        x, y, w, h = one['bbox']
        for key, value in (('xmin', x), ('ymin', y), ('xmax', x + w), ('ymax', y + h)):
            _add(box, key, value)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, key: str, value: object) -> None:
    ElementTree.SubElement(parent, key).text = str(value)
