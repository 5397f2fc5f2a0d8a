"""Backbones on a GPU under bfloat16 autocast, beside timm's, eager and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.flop_counter import FlopCounterMode

from backbones import set_fused
from benchmarks.speed import backbone
from benchmarks.speed.backbone import OURS, difference
from downstream.benchmarking.timing import Timings, interleave

NAMES = (OURS, 'timm', 'timm, compiled')


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    v2: bool
    size: tuple[int, int, int]
    training: bool

    def __str__(self) -> str:
        kind = 'training' if self.training else 'inference'
        return f'V{2 if self.v2 else 1} {kind}, {"x".join(map(str, self.size))}'


CASES = tuple(
    Case(v2, size, training)
    for size in ((16, 800, 1344), (16, 512, 512))
    for training in (False, True)
    for v2 in (False, True)
)


@dataclass(frozen=True)
class Result:
    """What was measured of a case; outputs differ by ``error``, ours from timm's."""

    timings: Timings
    of_peak: float
    error: float


def matrix_peak(device: torch.device, size: int = 8192) -> float:
    """FLOP/s of a large bfloat16 product there."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def measure(
    case: Case, rounds: int, device: str = 'cuda', arch: str = 'tiny', peak_size: int = 8192
) -> Result:
    """Time ours, timm's, and timm's compiled, all channels last, after comparing outputs."""
    place = torch.device(device)
    models = backbone.build(backbone.Case(str(case), case.v2, case.size, case.training, arch=arch))
    models = {name: models[name].to(place) for name in NAMES[:2]}
    for model in models.values():
        convert_conv2d_weight_memory_format(model, torch.channels_last)
    compiled = torch.compile(models['timm'])
    assert isinstance(compiled, nn.Module)
    models[NAMES[2]] = compiled
    count, height, width = case.size
    x = torch.randn(count, 3, height, width, device=place)
    x = x.contiguous(memory_format=torch.channels_last)
    steps = {name: _step(model, x, case.training) for name, model in models.items()}
    outputs = {name: [y.detach().float() for y in steps[name]()] for name in NAMES[:2]}
    error = difference(outputs[OURS], outputs['timm'])
    del outputs
    with FlopCounterMode(display=False) as counter:
        steps['timm']()
    timings = interleave(steps, rounds, warm_up=3, title=str(case))
    speed = counter.get_total_flops() / timings.spread(OURS).median
    return Result(timings, speed / matrix_peak(place, peak_size), error)


def _step(model: nn.Module, x: torch.Tensor, training: bool) -> Callable[[], list[torch.Tensor]]:
    once = backbone.step(model, x, training)

    def run() -> list[torch.Tensor]:
        # Ours runs fused, which is off by default on a GPU until this table says that it is faster.
        with set_fused(True), torch.autocast(x.device.type, dtype=torch.bfloat16):
            outputs = once()
        _wait(x.device)
        return outputs

    return run


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
