"""Whole detectors and segmenters with our backbone and with timm's of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

import downstream  # noqa: F401  before mmdet
from benchmarks.timing import Timings, interleave
from downstream.drop_in import drop_in

OURS, PEER = 'this suite', 'timm'
CONFIGS = {
    'Cascade Mask R-CNN': 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py',
    'UperNet': 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py',
}


@dataclass(frozen=True)
class Result:
    """What was measured."""

    name: str
    timings: Timings


def build(config: str) -> dict[str, nn.Module]:
    """The model of a recipe, and the same with timm's ConvNeXt."""
    from downstream.running.config import RunOptions, read_config

    models = {}
    for name in (OURS, PEER):
        cfg = read_config(RunOptions(config))
        if name == PEER:
            drop_in(cfg, 'timm:convnext_tiny')
        cfg.model.backbone.init_cfg = None
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            torch.manual_seed(0)
            models[name] = MODELS.build(cfg.model)
    return models


def batch(task: str, size: tuple[int, int], objects: int = 8) -> list:
    """Annotations of one image of the size."""
    height, width = size
    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    generator = torch.Generator().manual_seed(0)
    if task == 'UperNet':
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, *size), generator=generator))
        return [sample]
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    corners = torch.rand(objects, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    sizes = 20 + torch.rand(objects, 2, generator=generator) * 200
    masks = torch.zeros(objects, *size, dtype=torch.uint8).numpy()
    boxes = torch.cat([corners, corners + sizes], 1)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist()):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.randint(0, 80, (objects,), generator=generator),
        masks=BitmapMasks(masks, *size),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4), labels=torch.empty(0))
    return [sample]


def measure(task: str, size: tuple[int, int], training: bool, rounds: int) -> Result:
    """Time inference of an image, or a training step of two without the optimizer, of both models."""
    count = 2 if training else 1
    torch.set_num_threads(2)
    models = build(CONFIGS[task])
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

    def step(model: nn.Module) -> Callable[[], None]:
        model.train(training)

        def run() -> None:
            torch.manual_seed(0)
            data = model.data_preprocessor(
                {
                    'inputs': [image.clone() for _ in range(count)],
                    'data_samples': count * batch(task, size),
                },
                training,
            )
            if not training:
                with torch.no_grad():
                    model(**data, mode='predict')
                return
            model.zero_grad(set_to_none=True)
            losses = model(**data, mode='loss')
            model.parse_losses(losses)[0].backward()

        return run

    steps = {name: step(model) for name, model in models.items()}
    kind = 'training step' if training else 'inference'
    title = f'{task} {kind}, {count}x{size[0]}x{size[1]}'
    return Result(title, interleave(steps, rounds, title=title))
