"""How to train a row on other hardware than the papers': batch, accumulation, steps and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.contract.saved_memory import saved_activation_bytes

from .checks import GPUS, iterations
from .complexity import build_on_meta, padded_size, run_parts
from .table import Row

# Height and width of the largest image that training sees, by the kind of data.
_TRAINED_SIZE = {'coco': (800, 1344), 'lsj': (1024, 1024)}
# RoIs per image that box heads learn from, and the quarter of them that mask heads do.
_ROIS = (512, 128)
# Bytes per trained parameter: value, gradient and Adam's two moments in float32.
_STATE_BYTES = 16
# Bytes per trained parameter that Adam over lists of tensors (torch.optim, foreach=True, the default on
# CUDA) allocates in a step: the square roots of the second moments. Activations are freed by then.
_STEP_BYTES = 4
# Bytes per trained parameter of DistributedDataParallel's buckets, which hold a copy of the gradients
# where gradient_as_bucket_view is off.
_BUCKET_BYTES = 4
# Four figures were fitted to the memory that mmdetection's and mmsegmentation's model zoos log, so that
# every one of their ConvNeXt rows comes out within a third (test_plan.py). What mixed precision
# leaves of the activations: norms and losses stay in float32, and casts are kept beside what they cast.
_MIXED = 0.7
# Proposals, anchors and masks of an image, which no layer's output shows, and what a process needs, GiB.
_DETECTION, _CONSTANT = 0.8, 0.5


@dataclass(frozen=True)
class Plan:
    """How to train a row on some GPUs.

    Attributes:
        batch_per_gpu: Images per GPU and step.
        accumulation: Steps whose gradients are added before the optimizer's.
        gpus: Number of GPUs.
        batch: Images per step of the optimizer.
        published_batch: The paper's.
        steps: Of the optimizer.
        memory: Estimate per GPU, GiB.
    """

    batch_per_gpu: int
    accumulation: int
    gpus: int
    batch: int
    published_batch: int
    steps: int
    memory: float


def plan_training(row: Row, gpus: int, memory: float | None = None) -> Plan:
    """The plan that keeps the published batch, with as many images per GPU as fit.

    Args:
        row: A row.
        gpus: Number of GPUs.
        memory: GiB of each; None: as much as it takes.

    Raises:
        ConfigError: Not even one image fits, or the GPUs cannot share the published batch evenly.
    """
    if gpus < 1:
        raise ConfigError(f'--gpus {gpus}: give at least 1.')
    published = row.cfg.train_dataloader.batch_size * GPUS
    estimate = MemoryEstimate(row.cfg, gpus)
    shares = [b for b in range(1, published // gpus + 1) if published % (b * gpus) == 0]
    if row.task == 'segmentation' and gpus == 1:
        shares = shares[1:]  # BatchNorm cannot learn from one image that was pooled to a point
    if not shares:
        raise ConfigError(
            f'{gpus} GPUs cannot share the published batch of {published} evenly; take a number that '
            'divides it, or another batch with --auto-scale-lr.'
        )
    possible = [b for b in shares if memory is None or estimate(b) <= memory]
    if not possible:
        raise ConfigError(
            f'{row.name} takes about {estimate(shares[0]):.1f} GiB for a batch of {shares[0]} per GPU, '
            f'more than {memory:g}. '
            'model.backbone.with_cp=True trades time for memory.'
        )
    batch = possible[-1]
    return Plan(
        batch,
        published // (batch * gpus),
        gpus,
        published,
        published,
        iterations(row, published),
        estimate(batch),
    )


def describe_plan(row: Row, found: Plan) -> str:
    """``found`` as text, whose last line is the command to run."""
    command = f'tools/dist_train.sh configs/{row.config} {found.gpus}'
    options = [f'train_dataloader.batch_size={found.batch_per_gpu}']
    command += f' --cfg-options {" ".join(options)}'
    if found.accumulation > 1:
        command += ' --keep-batch'
    return '\n'.join(
        [
            f'{row.name}',
            f'  batch         {found.batch_per_gpu} per GPU x {found.gpus} GPUs x {found.accumulation} '
            f'accumulated = {found.batch}, as published',
            f'  steps         {found.steps:,} of the optimizer',
            f'  memory        about {found.memory:.1f} GiB per GPU (estimate, not measured on a GPU)',
            f'  {command}',
        ]
    )


class MemoryEstimate:
    """GiB that training takes, as a function of the images per GPU.

    The peak is the larger of two moments: the end of the forward pass, with all saved activations, and
    the optimizer's step, with its temporaries. Activations are counted for the plain modules, which run
    on a GPU unless fused blocks are turned on; these save less. Not calibrated on a GPU by this project.

    Args:
        cfg: Of a row.
        gpus: How many; with several, DistributedDataParallel may add its buckets.
    """

    def __init__(self, cfg: Config, gpus: int = GPUS) -> None:
        model = build_on_meta(cfg).train()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters()) - trained
        self.fixed = trained * _STATE_BYTES + frozen * 4
        wrapper = cfg.get('model_wrapper_cfg') or {}
        if gpus > 1 and not wrapper.get('gradient_as_bucket_view', True):
            self.fixed += trained * _BUCKET_BYTES
        fused = cfg.optim_wrapper.optimizer.get('fused', False)
        self.step = 0 if fused else trained * _STEP_BYTES
        self.mixed = cfg.optim_wrapper.type == 'AmpOptimWrapper'
        self.per_image: float = activation_bytes(model, trained_size(cfg))
        if self.mixed:
            self.fixed += 2 * (trained + frozen)
            self.per_image *= _MIXED
        if 'decode_head' in cfg.model:
            # logits at full size and their gradient, of two heads, for the losses
            height, width = trained_size(cfg)
            self.per_image += 4 * 4 * cfg.model.decode_head.num_classes * height * width
        else:
            self.per_image += _DETECTION * 2**30

    def __call__(self, batch: int) -> float:
        return _CONSTANT + (self.fixed + max(batch * self.per_image, self.step)) / 2**30


def trained_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the largest image that training sees."""
    if 'decode_head' in cfg.model:
        height, width = cfg.crop_size
        return height, width
    size = padded_size(cfg.train_pipeline)
    return size or _TRAINED_SIZE['lsj' if 'image_size' in cfg else 'coco']


def activation_bytes(model: Any, size: Sequence[int]) -> int:
    """What the backward pass of one image keeps, in float32, without the parameters."""

    def run() -> None:
        # two images, because a BatchNorm cannot learn from one that was pooled to a point
        channels = getattr(model.backbone, 'input_channels', 3)
        images = torch.zeros(2, channels, *size, device='meta')
        run_parts(model, images, rois=(2 * _ROIS[0], 2 * _ROIS[1]))
        if getattr(model, 'with_auxiliary_head', False):
            with torch.no_grad():
                maps = model.backbone(images)
            model.auxiliary_head(maps)

    return saved_activation_bytes(model, run) // 2
