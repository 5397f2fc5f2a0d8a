"""Tests of detection with kept predictions, made by hand as tools/test.py leaves them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.weights.download import sha256
from downstream.analysis.kept import files
from downstream.analysis.kept.detection import FILE, FORMAT

CLASSES = ('circle', '<b>square</b>', 'nobody predicts this')
RULES = {
    'kinds': ['bbox'],
    'iou_thrs': np.linspace(0.5, 0.95, 10).round(2).tolist(),
    'proposal_nums': [1, 10, 100],
}
SIDE = 96


def truth(images: int, per_image: int, seed: int = 0) -> dict:
    """A COCO dict of random boxes."""
    random = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(per_image):
            x, y = random.uniform(0, SIDE - 40, 2)
            width, height = random.uniform(10, 40, 2)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image + 1,
                    'category_id': int(random.integers(1, len(CLASSES) + 1)),
                    'bbox': [float(x), float(y), float(width), float(height)],
                    'area': float(width * height),
                    'iscrowd': 0,
                }
            )
    return {
        'images': [
            {'id': n + 1, 'file_name': f'{n:05}.jpg', 'width': SIDE, 'height': SIDE}
            for n in range(images)
        ],
        'categories': [{'id': n + 1, 'name': name} for n, name in enumerate(CLASSES)],
        'annotations': annotations,
    }


def kept_test(
    folder: Path, annotations: Path, noise: float, *, extra: int = 3, nothing: bool = False
) -> Path:
    """A test folder whose detections are the truth moved by ``noise`` pixels, with random ones added."""
    content = json.loads(annotations.read_text())
    random = np.random.default_rng(7)
    detections = []
    for image in content['images']:
        own = [one for one in content['annotations'] if one['image_id'] == image['id']]
        boxes = np.array([one['bbox'] for one in own]).reshape(-1, 4)
        boxes = np.concatenate(
            [boxes + random.normal(0, noise, boxes.shape), _random(random, extra)]
        )
        labels = [*(one['category_id'] - 1 for one in own), *random.integers(0, 2, extra)]
        # Nobody predicts the last class.
        labels = np.where(np.array(labels, int) == len(CLASSES) - 1, 0, labels)
        scores = np.concatenate([random.uniform(0.5, 1, len(own)), random.uniform(0, 0.6, extra)])
        keep = np.zeros(len(labels), bool) if nothing else np.ones(len(labels), bool)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1) + boxes[:, :2]
        detections.append(
            {
                'img_id': image['id'],
                'bboxes': boxes[keep].astype(np.float32),
                'labels': labels[keep],
                'scores': scores[keep].astype(np.float32),
            }
        )
    return write(folder, annotations, detections)


def write(folder: Path, annotations: Path, detections: list[dict]) -> Path:
    """Files of a test as :mod:`downstream.analysis.kept.detection` has them."""
    folder.mkdir(parents=True)
    arrays = {
        'counts': np.array([len(one['labels']) for one in detections], np.int32),
        'labels': np.concatenate([one['labels'] for one in detections]).astype(np.int32),
        'boxes': np.concatenate([one['bboxes'] for one in detections]),
        'scores': np.concatenate([one['scores'] for one in detections]),
    }
    categories = list(range(1, len(CLASSES) + 1))
    header = {'images': [one['img_id'] for one in detections], 'categories': categories}
    files.save(folder / FILE, FORMAT, header, arrays, compressed=False)
    row = dict.fromkeys(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR'), 0.5)
    report = {
        'task': 'detection',
        'config': 'mine.py',
        'checkpoint': 'epoch_1.pth',
        'tta': False,
        'metrics': {'bbox': {**row, 'per_class': dict.fromkeys(CLASSES, 0.5)}},
        'data': {
            'classes': list(CLASSES),
            'folder': str(annotations.parent / 'images'),
            'protocol': {'pipeline': [{'type': 'LoadImageFromFile'}], 'tta': False},
            'annotations': str(annotations),
            'digest': sha256(annotations),
            'images': len(detections),
            'categories': categories,
            'rules': RULES,
            'kept': [FILE],
        },
    }
    (folder / 'metrics.json').write_text(json.dumps(report))
    return folder


def data_set(root: Path, images: int, per_image: int, pictures: int | None = None) -> Path:
    """Annotations, and pictures of the first images."""
    (root / 'images').mkdir(parents=True)
    annotations = root / 'annotations.json'
    content = truth(images, per_image)
    annotations.write_text(json.dumps(content))
    random = np.random.default_rng(1)
    for image in content['images'][:pictures]:
        pixels = random.integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(root / 'images' / image['file_name'])
    return annotations


def _random(random: np.random.Generator, count: int) -> np.ndarray:
    return np.column_stack([random.uniform(0, 60, (count, 2)), random.uniform(5, 35, (count, 2))])
