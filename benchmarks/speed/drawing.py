"""Pictures of predictions beside those of mmdet's and mmseg's visualizers."""

from __future__ import annotations

import time

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from benchmarks.speed.evaluation import OURS, Result
from downstream.benchmarking.timing import interleave
from downstream.drawing import draw_detections, draw_segmentation

PEER = 'OpenMMLab'


def detections(rounds: int, size: tuple[int, int] = (1024, 1280), objects: int = 6) -> Result:
    """Boxes, masks, names and scores of some objects on an image."""
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    height, width = size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = rng.uniform((0, 0), (0.6 * width, 0.6 * height), (objects, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0.1, 0.4, (objects, 2)) * (width, height)])
    y, x = np.mgrid[:height, :width]
    masks = np.stack(
        [
            ((x - (a + c) / 2) / (c - a)) ** 2 + ((y - (b + d) / 2) / (d - b)) ** 2 < 0.25
            for a, b, c, d in boxes
        ]
    )
    labels, scores = rng.integers(0, 80, objects), rng.uniform(0.5, 1, objects)
    classes = [f'class {i}' for i in range(80)]
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = {'classes': classes}
    found = dict(bboxes=boxes, labels=labels, scores=scores, masks=masks)
    sample = DetDataSample(
        pred_instances=InstanceData(**{key: torch.as_tensor(v) for key, v in found.items()})
    )
    cases = {
        PEER: lambda: visualizer.add_datasample('', image, sample, draw_gt=False),
        OURS: lambda: draw_detections(image, boxes, labels, scores, masks, classes),
    }
    timings = interleave(cases, rounds, 1, 'objects', time.process_time)
    name = f'{objects} objects with masks, {height}x{width}'
    return Result(name, timings, PEER, 20.0, 0.0)


def segmentation(rounds: int, size: tuple[int, int] = (512, 683)) -> Result:
    """The classes of all pixels of an image, with their names."""
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    generator = torch.Generator().manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    coarse = torch.randint(0, 12, (1, 1, 4, 5), generator=generator).float()
    label_map = torch.nn.functional.interpolate(coarse, size)[0].long()
    classes = [f'class {i}' for i in range(150)]
    visualizer = SegLocalVisualizer()
    palette = np.random.default_rng(0).integers(0, 256, (150, 3)).tolist()
    visualizer.dataset_meta = {'classes': classes, 'palette': palette}
    sample = SegDataSample(pred_sem_seg=PixelData(data=label_map))
    labels = label_map[0].numpy()
    cases = {
        PEER: lambda: visualizer.add_datasample('', image, sample, draw_gt=False),
        OURS: lambda: draw_segmentation(image, labels, classes),
    }
    timings = interleave(cases, rounds, 1, 'pixels', time.process_time)
    return Result(f'classes of pixels, {size[0]}x{size[1]}', timings, PEER, 20.0, 0.0)


def measure(rounds: int) -> list[Result]:
    """Both kinds of pictures, on one thread."""
    torch.set_num_threads(1)
    return [detections(rounds), segmentation(rounds)]
