"""Whether a backbone can be exported as tools/export.py does it: for pictures of any size and number."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import torch
from torch import Tensor, nn

from backbones.errors import ConfigError
from backbones.weights.timm_catalog import first_line
from downstream.exporting.graph.any_size import AnySize
from downstream.exporting.graph.picture import PictureInput, PictureRules
from downstream.exporting.trace import Shape, trace

# Mean and standard deviation of every channel, about those of photos.
_MEAN, _STD = 120.0, 60.0
# Relative to the largest value of a map.
_TOLERANCE = 1e-3


class BackboneGraph(nn.Module):
    """Pixels to feature maps: what the exported graphs of detectors and segmenters begin with.

    Input ``(N, H, W, C)`` of float32, output the maps of the padded pictures.

    Args:
        backbone: In evaluation mode.
        channels: Of a picture.
        divisor: Height and width are padded to multiples of it.
        stride: The coarsest; smaller pictures are padded to it.
    """

    def __init__(self, backbone: nn.Module, channels: int, divisor: int, stride: int) -> None:
        super().__init__()
        statistics = ((_MEAN,) * channels, (_STD,) * channels)
        self.picture = PictureInput(PictureRules(*statistics, False, divisor, (stride, stride)))
        self.backbone = backbone
        self.channels, self.stride = channels, stride

    def padding_to(self, divisor: int) -> BackboneGraph:
        """The same for pictures that are padded to multiples of another number, or of both."""
        divisor = lcm(divisor, self.picture.rules.divisor)
        return BackboneGraph(self.backbone, self.channels, divisor, self.stride)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with AnySize():
            return tuple(self.backbone(self.picture(image)))


def how_it_exports(graph: BackboneGraph) -> tuple[bool, str]:
    """Trace a backbone for pictures of any size and number, else for what it can be traced for.

    Args:
        graph: On the CPU.

    Returns:
        Whether pictures of any size and number can be exported; in a few words what can be, and why no
        more.
    """
    stride = graph.stride
    # One smaller, one larger than the traced one; neither is a multiple of anything.
    sizes = ((3 * stride + 1, 2 * stride + 11), (7 * stride + 5, 9 * stride - 1))
    traced = (5 * stride, 4 * stride)
    any_number, one = (Shape(None, None, count, graph.channels, 'float32') for count in (None, 1))
    reason = _fails(graph, any_number, sizes)
    if reason is None:
        compared = ' and '.join(f'{height}x{width}' for height, width in sizes)
        return True, f'pictures of any size and number; the same maps at {compared}'
    if _fails(graph, one, sizes) is None:
        return False, f'pictures of any size, segmenters with --batch 1: {reason}'
    if _fails(graph.padding_to(stride), one, sizes) is None:
        return False, (
            f'pictures of any size in detectors, which pad to multiples of {stride}; in segmenters for '
            f'fixed sizes only, with --size H W --batch 1: {reason}'
        )
    failure = _fails(graph, Shape(*traced, 1, graph.channels, 'float32'), [traced])
    if failure is None:
        return False, f'for fixed sizes only, with --size H W --batch 1: {reason}'
    return False, f'not possible: {failure}'


def _fails(graph: BackboneGraph, shape: Shape, sizes: Sequence[tuple[int, int]]) -> str | None:
    """Why a trace cannot be made or does not compute the same; None if it does."""
    try:
        program = trace(graph, shape, graph.stride).module()
    except ConfigError as error:
        return first_line(error.__cause__ or error)[:150]
    for number, (height, width) in enumerate(sizes, 1):
        # Pixels that the trace has not seen, and as many pictures.
        image = shape.example(height, width)[:number].roll(7, 1)
        with torch.no_grad():
            expected = graph(image)
            try:
                found = program(image)
            except Exception as error:  # whatever the program asks of a size
                return f'what was traced fails at {height}x{width}: {first_line(error)[:150]}'
        if not all(map(_are_equal, found, expected)):
            return f'what was traced has other maps at {height}x{width}'
    return None


def _are_equal(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    worst = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    return bool(worst <= _TOLERANCE)
