"""Whole detectors and segmenters with our backbone and with timm's of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

import downstream  # noqa: F401  before mmdet
from downstream.benchmarking.timing import Timings, interleave
from downstream.drop_in import drop_in

OURS, PEER = 'this suite', 'timm'
CONFIGS = {
    'Cascade Mask R-CNN': 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py',
    'UperNet': 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py',
}


def build(task: str, name: str) -> BaseModel:
    """The model of a recipe; ``name`` says with whose backbone."""
    from downstream.running.config import RunOptions, read_config

    cfg = read_config(RunOptions(CONFIGS[task]))
    if name == PEER:
        drop_in(cfg, 'timm:convnext_tiny')
    cfg.model.backbone.init_cfg = None
    if 'rcnn' in cfg.model.get('test_cfg', {}):
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # an untrained detector shall find 100 objects, too
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        return MODELS.build(cfg.model).cpu()


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


@dataclass(frozen=True)
class Case:
    """An inference of one image, or a training step of two without the optimizer."""

    task: str
    size: tuple[int, int]
    training: bool

    def __str__(self) -> str:
        kind = f'training step, {_COUNT}' if self.training else 'inference, 1'
        return f'{self.task} {kind}x{self.size[0]}x{self.size[1]}'


_COUNT = 2
CASES = (
    Case('Cascade Mask R-CNN', (800, 1344), False),
    Case('Cascade Mask R-CNN', (640, 640), True),
    Case('UperNet', (512, 512), False),
    Case('UperNet', (512, 512), True),
)


def step(model: BaseModel, case: Case, size: tuple[int, int] | None = None) -> Callable[[], None]:
    """What is timed, on noise of ``size``."""
    size = size or case.size
    count = _COUNT if case.training else 1
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    model.train(case.training)

    def run() -> None:
        torch.manual_seed(0)
        samples = count * batch(case.task, size)
        inputs = {'inputs': [image.clone() for _ in range(count)], 'data_samples': samples}
        data = model.data_preprocessor(inputs, case.training)
        if not case.training:
            with torch.no_grad():
                model(**data, mode='predict')
            return
        model.zero_grad(set_to_none=True)
        losses = model(**data, mode='loss')
        model.parse_losses(losses)[0].backward()

    return run


def alone(case: Case, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """For :func:`benchmarks.memory.peak`: a step of one of the models, and a smaller one."""
    torch.set_num_threads(2)
    model = build(case.task, name)
    return step(model, case), step(model, case, (128, 128))


def measure(case: Case, rounds: int) -> Timings:
    """Time both models."""
    torch.set_num_threads(2)
    steps = {name: step(build(case.task, name), case) for name in (OURS, PEER)}
    return interleave(steps, rounds, title=str(case))
