"""Evaluators beside the ones that OpenMMLab ships, on random results of COCO's and ADE20K's sizes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle

from downstream.benchmarking.timing import Timings, interleave

OURS = 'this suite'


@dataclass(frozen=True)
class Result:
    """What was measured: the reference's name and the speed to reach."""

    name: str
    timings: Timings
    reference: str
    target: float
    error: float


def random_coco(images: int, masks: bool) -> tuple[dict, list[dict]]:
    """Annotations, 7 objects an image of 80 classes, and 100 detections an image."""
    rng = np.random.default_rng(0)
    categories = [{'id': i + 1, 'name': str(i)} for i in range(80)]
    truth: list[dict] = []
    found = []

    def segmentation(x: float, y: float, w: float, h: float) -> dict:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        radii = rng.uniform(0.6, 1, 12)
        xs, ys = x + w / 2 * (1 + radii * np.cos(angles)), y + h / 2 * (1 + radii * np.sin(angles))
        points = np.stack([xs.clip(0, 639), ys.clip(0, 479)], 1).flatten().tolist()
        encoded = rle.frPyObjects([points], 480, 640)[0]
        return {'size': encoded['size'], 'counts': encoded['counts'].decode()}

    for image in range(1, images + 1):
        own = []
        for _ in range(7):
            w, h = np.exp(rng.uniform(np.log(10), np.log(300), 2))
            x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
            category = int(rng.integers(1, 81))
            own.append((category, x, y, w, h))
            truth.append(
                {'id': len(truth) + 1, 'image_id': image, 'category_id': category, 'iscrowd': 0,
                 'bbox': [x, y, w, h], 'area': w * h,
                 **({'segmentation': segmentation(x, y, w, h)} if masks else {})}
            )  # fmt: skip
        for _ in range(100):
            category, x, y, w, h = own[rng.integers(len(own))]
            x, y, w, h = np.array([x, y, w, h]) * rng.normal(1, 0.1, 4)
            w, h = max(w, 1), max(h, 1)
            if rng.random() < 0.3:
                category = int(rng.integers(1, 81))
            found.append(
                {'image_id': image, 'category_id': category, 'score': float(rng.random()),
                 **({'segmentation': segmentation(x, y, w, h)} if masks
                    else {'bbox': [float(v) for v in (x, y, w, h)]})}
            )  # fmt: skip
    listed = [{'id': i + 1, 'width': 640, 'height': 480} for i in range(images)]
    return {'images': listed, 'annotations': truth, 'categories': categories}, found


def collected(found: list[dict], images: int) -> list[tuple[dict, dict]]:
    """Detections as a metric's ``process`` stores them: pairs of ground truth and prediction."""
    from downstream.detection.coco_evaluation import mask_areas

    of_image: dict[int, list[dict]] = {image: [] for image in range(1, images + 1)}
    for one in found:
        of_image[one['image_id']].append(one)
    results = []
    for image, own in of_image.items():
        boxes = np.array([one.get('bbox', (0, 0, 1, 1)) for one in own], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        prediction = {
            'img_id': image,
            'bboxes': boxes,
            'scores': np.array([one['score'] for one in own], np.float32),
            'labels': np.array([one['category_id'] - 1 for one in own]),
        }
        if own and 'segmentation' in own[0]:
            codes = [one['segmentation'] for one in own]
            masks = [{**code, 'counts': code['counts'].encode()} for code in codes]
            prediction |= {'masks': masks, 'mask_areas': mask_areas(masks)}
        results.append(({'img_id': image, 'width': 640, 'height': 480}, prediction))
    return results


def coco(kind: str, images: int, rounds: int, target: float) -> Result:
    """Time our metric with hotcoco and with pycocotools, from collected predictions to figures."""
    from downstream.detection import CocoInstanceMetric

    content, found = random_coco(images, kind == 'segm')
    results = collected(found, images)
    metrics = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'truth.json')
        file.write_text(json.dumps(content))
        for name, backend in (('pycocotools', 'pycocotools'), (OURS, 'hotcoco')):
            metrics[name] = CocoInstanceMetric(str(file), kind, backend=backend)
            metrics[name].dataset_meta = {'classes': [one['name'] for one in content['categories']]}

    def evaluate(name: str) -> None:
        metrics[name].results = list(results)
        metrics[name].evaluate(images)

    cases = {name: (lambda name=name: evaluate(name)) for name in metrics}
    timings = interleave(cases, rounds, 0, f'COCO {kind}', time.process_time)
    ours, reference = (_numbers(metrics[name].report[kind]) for name in (OURS, 'pycocotools'))
    error = float(np.abs(ours - reference).max())
    title = f'COCO {kind}, {images} images, {len(found):,} detections'
    return Result(title, timings, 'pycocotools', target, error)


def _numbers(report: dict) -> np.ndarray:
    """All figures of a report, those of each class included; -1 for what there is none of."""
    values = [*(value for key, value in report.items() if key != 'per_class')]
    values += report['per_class'].values()
    return np.array([-1 if value is None else value for value in values])


def miou(images: int, rounds: int) -> Result:
    """Time mmseg's counts of pixels and ours, 150 classes, 512 x 683."""
    from mmseg.evaluation import IoUMetric

    from downstream.segmentation import SegmentationMetric

    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 150, (images, 1, 16, 22), generator=generator).float()
    labels = torch.nn.functional.interpolate(small, (512, 683))[:, 0].to(torch.uint8)
    predictions = labels.long()
    wrong = torch.rand(labels.shape, generator=generator)
    predictions[wrong < 0.2] = 3
    labels[wrong > 0.93] = 255
    totals = {}

    def count(name: str, metric: type[IoUMetric]) -> None:
        parts = [
            metric.intersect_and_union(prediction, label, 150, 255)
            for prediction, label in zip(predictions, labels)
        ]
        totals[name] = torch.stack(
            [torch.stack([p.double() for p in part]).sum(0) for part in zip(*parts)]
        )

    cases = {
        'mmseg': lambda: count('mmseg', IoUMetric),
        OURS: lambda: count(OURS, SegmentationMetric),
    }
    timings = interleave(cases, rounds, 1, 'mIoU', time.process_time)
    error = float((totals['mmseg'] - totals[OURS]).abs().max())
    return Result(
        f'mIoU counts, {images} images 512x683, 150 classes', timings, 'mmseg', 10.0, error
    )


def measure(rounds: int, images: int = 5000) -> list[Result]:
    """All evaluators, the largest of ``images`` images, on one thread."""
    os.environ['RAYON_NUM_THREADS'] = '1'  # hotcoco reads it when it first counts
    torch.set_num_threads(1)
    return [
        coco('bbox', images, rounds, 40.0),
        coco('segm', images * 4 // 25, rounds, 25.0),
        miou(images // 25, rounds),
    ]
