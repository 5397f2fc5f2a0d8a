"""Multi-scale deformable attention beside mmcv's without its extension, on two threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from mmcv.ops import multi_scale_deform_attn
from torch import Tensor, nn

from backbones.kernels.detection import deform_attention
from benchmarks.speed.backbone import OURS, difference
from downstream.benchmarking.timing import Timings, interleave
from downstream.contract.saved_memory import saved_activation_bytes
from downstream.operators.deform_attention import REPLACED

PEER = 'mmcv, PyTorch'
# Of an image of 800x1333 at strides 8 to 64.
_LEVELS = ((100, 167), (50, 84), (25, 42), (13, 21))


@dataclass(frozen=True)
class Result:
    """What was measured of a case."""

    name: str
    timings: Timings
    kept: Mapping[str, int]
    error: float


def measure(rounds: int, levels: tuple[tuple[int, int], ...] = _LEVELS) -> list[Result]:
    """A layer's attention of all pixels to four places around each on each level, 8 heads of 32.

    Args:
        rounds: How often each way is timed.
        levels: Height and width of each.
    """
    torch.set_num_threads(2)
    sources = _sources(levels)
    shapes = torch.tensor(levels)
    in_mmcv = REPLACED.get('pytorch', multi_scale_deform_attn.multi_scale_deformable_attn_pytorch)
    ways = {
        OURS: lambda: deform_attention.deform_attention(sources[0], levels, *sources[1:]),
        PEER: lambda: in_mmcv(sources[0], shapes, *sources[1:]),
    }
    compare = functools.partial(_compare, ways, sources, rounds)
    results = [compare('forward', False), compare('forward and backward', True)]
    with mock.patch.object(deform_attention, 'compiled', return_value=None):
        results.append(compare('the same without a C compiler', True))
    return results


def _sources(levels: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    centres = torch.cat([_centres(height, width) for height, width in levels])
    sizes = torch.tensor([[width, height] for height, width in levels])
    count = len(centres)
    value = torch.randn(1, count, 8, 32)
    moved = 2 * torch.randn(1, count, 8, len(levels), 4, 2)
    at = centres[:, None, None, None] * sizes[:, None] + moved
    # Not where the gradient of a location jumps, at the centres of pixels, which rounding would decide.
    at = at.floor() + 0.6 + 0.8 * torch.rand(at.shape)
    locations = at / sizes[:, None]
    weights = torch.rand(1, count, 8, len(levels) * 4).softmax(-1).unflatten(-1, (-1, 4))
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def _centres(height: int, width: int) -> Tensor:
    """x, y of the pixels, from 0 to 1."""
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), -1).flatten(0, 1)


def _compare(
    ways: Mapping[str, Callable[[], Tensor]],
    sources: tuple[Tensor, ...],
    rounds: int,
    name: str,
    back: bool,
) -> Result:
    grad = torch.randn(1, sources[0].shape[1], 256)

    def step(way: Callable[[], Tensor]) -> list[Tensor]:
        if not back:
            with torch.no_grad():
                return [way()]
        out = way()
        return [out.detach(), *torch.autograd.grad(out, sources, grad)]

    timings = interleave({key: functools.partial(step, way) for key, way in ways.items()}, rounds)
    error = difference(*(step(way) for way in ways.values()))
    kept = {key: saved_activation_bytes(nn.Identity(), way) for key, way in ways.items()}
    return Result(name, timings, kept, error)
