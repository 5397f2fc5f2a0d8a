"""Operators of detectors beside torchvision's, on two threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.kernels.detection.roi_align import RoIAlign
from benchmarks.speed.backbone import OURS, difference
from downstream.benchmarking.timing import Timings, interleave

PEER = 'torchvision'


@dataclass(frozen=True)
class Result:
    """What was measured of an operator."""

    name: str
    timings: Timings
    error: float


def measure(rounds: int) -> list[Result]:
    """RoIAlign of 700 boxes on the finest map of an image of 800x1344, and its gradient."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    maps = torch.randn(1, 256, 200, 336).contiguous(memory_format=torch.channels_last)
    corners, sides = torch.rand(700, 2) * torch.tensor([1200.0, 700]), 30 + torch.rand(700, 2) * 80
    boxes = torch.cat([torch.zeros(700, 1), corners, corners + sides], 1)
    align = RoIAlign((7, 7), 0.25, 0, True)
    grad = align(maps, boxes)
    options = (align.scale, *align.size)
    last = (align.sampling, align.aligned)
    torchvision = torch.ops.torchvision

    def compare(title: str, own: Callable[[], Tensor], peer: Callable[[], Tensor]) -> Result:
        error = difference([own()], [peer()])
        return Result(title, interleave({OURS: own, PEER: peer}, rounds, title=title), error)

    return [
        compare(
            'RoIAlign, 700 boxes of 256x200x336',
            lambda: align(maps, boxes),
            lambda: torchvision.roi_align(maps, boxes, *options, *last),
        ),
        compare(
            'its gradient',
            lambda: align.back(grad, boxes, maps.shape),
            lambda: torchvision._roi_align_backward(grad, boxes, *options, *maps.shape, *last),
        ),
    ]
