"""The largest batch that a device has memory for, found by training on it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from backbones.errors import ConfigError
from downstream.data.class_counts import recipe_classes
from downstream.data.pipelines import padded_size, resize_scales, steps_of_dataset
from downstream.quiet import without_log
from downstream.running.checkpoint.writer import free_memory
from downstream.running.weights.initialise import initialise_randomly

from .batch import smallest_batch
from .channels import chosen_bands

# Share of the memory that a probe may fill: batches differ in their number of objects.
_SHARE = 0.85
_LARGEST = 64
# Objects of an image of the probe: COCO's training images have 7.3 on average, 93 at most.
_OBJECTS = 20


def largest_batch(cfg: Config, processes: int) -> int:
    """The most images that fit a training step on this machine's device.

    On CUDA steps of 1, 2, 4, ... images run until memory ends. On a CPU steps of 1 and 2 images show
    what an image takes, and the available memory of the host how many there is room for.

    Args:
        cfg: A config to train.
        processes: Must be 1.

    Raises:
        ConfigError: There are several processes, or not even the smallest batch fits.
    """
    require_one_process(processes)
    height, width = largest_size(cfg)
    smallest = smallest_batch(cfg)
    probe = _largest_on_cuda if get_device() == 'cuda' else _largest_on_cpu
    found = probe(lambda batch: run_steps(cfg, batch, (height, width)), smallest)
    if found < smallest:
        raise ConfigError(
            f'--batch-size auto: not even {smallest} images of {width} x {height} fit; take a smaller '
            '--image-size, another backbone, or --cfg-options model.backbone.with_cp=True.'
        )
    print_log(
        f'--batch-size auto: {found} images of {width} x {height} fit the {get_device()}.',
        'current',
    )
    return found


def require_one_process(processes: int) -> None:
    """Raise a ConfigError if there are several processes, which would have to agree on a batch."""
    if processes > 1:
        raise ConfigError(
            '--batch-size auto is for one process: probe without a launcher, and give the number times '
            'the processes.'
        )


def largest_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the largest padded image that training sees.

    Raises:
        ConfigError: The pipeline sets no size.
    """
    size = cfg.model.data_preprocessor.get('size')
    for augment in cfg.model.data_preprocessor.get('batch_augments') or ():
        size = augment.get('size', size)
        if augment.get('random_size_range'):  # mmdet's BatchSyncRandomResize, of squares
            size = (max(augment['random_size_range']),) * 2
    if size:
        return tuple(size)
    scales = resize_scales(list(steps_of_dataset(cfg.train_dataloader.dataset)))
    if not scales:
        raise ConfigError(
            '--batch-size auto: the training pipeline of this config sets no size of images.'
        )
    short, long = max((min(scale), max(scale)) for scale in scales)
    return padded_size((short, long), cfg.model.data_preprocessor)


def run_steps(cfg: Config, batch: int, size: tuple[int, int], steps: int = 2) -> None:
    """Train a new model of ``cfg`` for some steps on ``batch`` random images of ``size``.

    The second step has the optimizer's state besides.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope), without_log():
        model = MODELS.build(deepcopy(cfg.model))
        initialise_randomly(model)
        model = model.to(get_device()).train()
        if get_device() == 'cpu':
            model = revert_sync_batchnorm(model)
        optimizer = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
        for _ in range(steps):
            model.train_step(_random_batch(cfg, batch, size), optimizer)


def _random_batch(cfg: Config, batch: int, size: tuple[int, int]) -> dict:
    channels = len(chosen_bands(cfg) or 'RGB')
    inputs = [torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for _ in range(batch)]
    make = _segmented if cfg.default_scope == 'mmseg' else _detected
    return {'inputs': inputs, 'data_samples': [make(cfg, size) for _ in range(batch)]}


def _segmented(cfg: Config, size: tuple[int, int]) -> BaseDataElement:
    from mmseg.structures import SegDataSample  # mmdet and mmseg take seconds to import

    labels = torch.randint(0, recipe_classes(cfg.model) or 1, (1, *size))
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))


def _detected(cfg: Config, size: tuple[int, int]) -> BaseDataElement:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = size
    corner = torch.rand(_OBJECTS, 2) * 0.75
    boxes = torch.cat([corner, corner + 0.05 + torch.rand(_OBJECTS, 2) * 0.2], 1)
    boxes *= torch.tensor([width, height, width, height])
    labels = torch.randint(0, recipe_classes(cfg.model) or 1, (_OBJECTS,))
    objects = InstanceData(bboxes=boxes, labels=labels)
    steps = steps_of_dataset(cfg.train_dataloader.dataset)
    if any(step.get('with_mask') for step in steps):
        masks = torch.zeros(_OBJECTS, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
            mask[top:bottom, left:right] = 1
        objects.masks = BitmapMasks(masks.numpy(), height, width)
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0)
    return DetDataSample(
        metainfo=meta,
        gt_instances=objects,
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
    )


def _largest_on_cuda(run: Callable[[int], None], batch: int) -> int:
    found, total = 0, torch.cuda.get_device_properties(0).total_memory
    while batch <= _LARGEST:
        torch.cuda.reset_peak_memory_stats()
        try:
            run(batch)
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        if torch.cuda.max_memory_reserved() > _SHARE * total:
            break
        found, batch = batch, batch * 2
    return found


def _largest_on_cpu(run: Callable[[int], None], smallest: int) -> int:
    """In a process of its own, since the peak of a process never falls."""
    release_free_memory()
    taken = [_taken_in_child(run, batch) for batch in (smallest, smallest + 1)]
    per_image = max(taken[1] - taken[0], 1)
    free = free_memory() or taken[1]
    return min(_LARGEST, int((_SHARE * free - taken[0]) // per_image) + smallest)


def release_free_memory() -> None:
    """Give what this process has freed back to the system: a step would take it without growing."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries than glibc do without
        ctypes.CDLL(None).malloc_trim(0)


def _taken_in_child(run: Callable[[int], None], batch: int) -> int:
    """Bytes by which a forked process grows that trains on ``batch`` images."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # a pool of threads does not survive a fork
            before = _peak()
            run(batch)
            os.write(writer, str(_peak() - before).encode())
            code = 0
        except BaseException:  # this process ends before Python would print it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        taken = pipe.read()
    if status:
        raise ConfigError(
            f'--batch-size auto: a step of {batch} images failed; see the error above, or give a number.'
        )
    return int(taken)


def _peak() -> int:
    """The most memory that this process has held, in bytes; that of a new fork is what it holds."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024
