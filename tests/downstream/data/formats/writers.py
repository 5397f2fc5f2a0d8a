"""Formats written by hand from COCO annotations, and what two sets must have in common.

Nothing here shares code with the readers.
"""

import base64
import io
import json
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from pycocotools import mask as rle

NAMES = ('circle', 'square', 'triangle')


def link_images(coco: dict, root: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in coco['images']:
        (folder / Path(image['file_name']).name).symlink_to(root / image['file_name'])


def annotations_of(coco: dict, image: dict) -> list[dict]:
    return [one for one in coco['annotations'] if one['image_id'] == image['id']]


def index_of(coco: dict, annotation: dict) -> int:
    return [c['id'] for c in coco['categories']].index(annotation['category_id'])


def name_of(coco: dict, annotation: dict) -> str:
    return coco['categories'][index_of(coco, annotation)]['name']


def write_yolo_labels(coco: dict, folder: Path, polygons: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in coco['images']:
        width, height = image['width'], image['height']
        lines = []
        for one in annotations_of(coco, image):
            if polygons:
                flat = one['segmentation'][0]
                values = [v / (height if i % 2 else width) for i, v in enumerate(flat)]
            else:
                x, y, w, h = one['bbox']
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            lines.append(' '.join(map(repr, [index_of(coco, one), *values])))
        (folder / f'{Path(image["file_name"]).stem}.txt').write_text('\n'.join(lines))


def write_voc(coco: dict, folder: Path, database: str = 'Unknown', from_one: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in coco['images']:
        objects = ''
        for one in annotations_of(coco, image):
            x, y, w, h = one['bbox']
            corners = (x + from_one, y + from_one, x + w, y + h)
            box = ''.join(
                f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners)
            )
            objects += (
                f'<object><name>{escape(name_of(coco, one))}</name><difficult>0</difficult>'
                f'<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>'
                f'<bndbox>{box}</bndbox></object>'
            )
        name = Path(image['file_name'])
        (folder / f'{name.stem}.xml').write_text(
            f'<annotation><folder>x</folder><filename>{name.name}</filename>'
            f'<source><database>{database}</database></source><size><width>{image["width"]}</width>'
            f'<height>{image["height"]}</height><depth>3</depth></size>{objects}</annotation>'
        )


def write_labelme(coco: dict, root: Path, folder: Path, kind: str = 'polygon') -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in coco['images']:
        shapes = []
        for number, one in enumerate(annotations_of(coco, image)):
            x, y, w, h = one['bbox']
            shape = {'label': name_of(coco, one), 'shape_type': kind, 'group_id': None, 'flags': {}}
            if kind == 'rectangle':  # drawn from the lower right corner
                shapes.append({**shape, 'points': [[x + w, y + h], [x, y]]})
            elif kind == 'mask':
                pixels = pixels_of(one, image)
                rows, columns = np.nonzero(pixels)
                top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
                file = io.BytesIO()
                Image.fromarray(pixels[top : bottom + 1, left : right + 1]).save(file, 'PNG')
                shape['mask'] = base64.b64encode(file.getvalue()).decode()
                points = [[int(left), int(top)], [int(right), int(bottom)]]
                shapes.append({**shape, 'points': points})
            else:
                group = number if len(one['segmentation']) > 1 else None
                for flat in one['segmentation']:
                    points = [list(point) for point in zip(flat[0::2], flat[1::2])]
                    shapes.append({**shape, 'group_id': group, 'points': points})
        content = {
            'version': '5.4.1',
            'flags': {},
            'shapes': shapes,
            'imagePath': str(root / image['file_name']),
            'imageData': None,
            'imageHeight': image['height'],
            'imageWidth': image['width'],
        }
        (folder / f'{Path(image["file_name"]).stem}.json').write_text(json.dumps(content))


def write_via(coco: dict, path: Path, shape: str = 'polygon', form: str = 'project') -> None:
    """``form``: a ``'project'``, its exported ``'annotations'``, or those of VIA ``'1'``."""
    images = {}
    for number, image in enumerate(coco['images']):
        regions = []
        for one in annotations_of(coco, image):
            if shape == 'rect':
                about = dict(zip(('x', 'y', 'width', 'height'), one['bbox']))
            else:
                flat = one['segmentation'][0]
                about = {'all_points_x': flat[0::2], 'all_points_y': flat[1::2]}
            kinds = {'kind': name_of(coco, one)}
            regions.append(
                {'shape_attributes': {'name': shape, **about}, 'region_attributes': kinds}
            )
        if form == '1':
            regions = {str(place): region for place, region in enumerate(regions)}
        entry = {'fileref': '', 'size': number, 'filename': Path(image['file_name']).name}
        entry |= {'base64_img_data': '', 'file_attributes': {}, 'regions': regions}
        images[f'{entry["filename"]}{number}'] = entry
    options = {category['name']: '' for category in coco['categories']}
    content = {
        '_via_settings': {'core': {'default_filepath': '', 'filepath': {}}},
        '_via_img_metadata': images,
        '_via_attributes': {'region': {'kind': {'type': 'radio', 'options': options}}, 'file': {}},
    }
    path.write_text(json.dumps(content if form == 'project' else images))


def pixels_of(annotation: dict, image: dict) -> np.ndarray:
    """The mask of an annotation, ``(H, W)`` of bool."""
    code, size = annotation['segmentation'], (image['height'], image['width'])
    if isinstance(code, list):
        code = rle.merge(rle.frPyObjects(code, *size))
    elif isinstance(code['counts'], list):
        code = rle.frPyObjects(code, *size)
    return rle.decode(code).astype(bool)


def targets(coco: dict, masks: bool = False) -> dict[str, list[tuple]]:
    """Image -> its size and, sorted, the class, box and (with ``masks``) pixels of its objects."""
    result = {}
    for image in coco['images']:
        rows = []
        for one in annotations_of(coco, image):
            row = (name_of(coco, one), *(round(float(v), 3) for v in one['bbox']), one['iscrowd'])
            if masks:
                row += (pixels_of(one, image).tobytes(),)
            rows.append(row)
        result[Path(image['file_name']).stem] = [(image['width'], image['height']), *sorted(rows)]
    return result
