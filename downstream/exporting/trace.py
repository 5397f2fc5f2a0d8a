"""A graph as a program of torch.export, for pictures of one size or of any."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from backbones.errors import ConfigError
from backbones.upstream import required
from backbones.weights.timm_catalog import first_line

# Pixels along a side: a detector finds something in a picture of squares, and nothing in noise.
_SQUARE = 24
_patch_config = required('torch.fx.experimental._config.patch')


@dataclass(frozen=True)
class Shape:
    """The pictures that a file takes.

    Attributes:
        height: None: any.
        width: None: any.
        batch: None: any.
        channels: Of a picture.
        dtype: ``'uint8'`` or ``'float32'``.
    """

    height: int | None = None
    width: int | None = None
    batch: int | None = 1
    channels: int = 3
    dtype: str = 'uint8'

    def example(self, height: int, width: int) -> torch.Tensor:
        """Random pictures of coloured squares, of this size where any is taken."""
        height, width = self.height or height, self.width or width
        shape = (self.batch or 2, -(-height // _SQUARE), -(-width // _SQUARE), self.channels)
        colors = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        pixels = colors.repeat_interleave(_SQUARE, 1).repeat_interleave(_SQUARE, 2)
        return pixels[:, :height, :width].to(getattr(torch, self.dtype)).contiguous()


def trace(graph: nn.Module, shape: Shape, stride: int) -> ExportedProgram:
    """``graph`` as a program of torch.export.

    Args:
        graph: Takes pictures as ``shape`` says.
        shape: What stays open.
        stride: The coarsest of the network.

    Raises:
        ConfigError: The network cannot be exported.
    """
    example = shape.example(5 * stride, 4 * stride)
    sizes = (shape.batch, shape.height, shape.width)
    dynamic = {place: Dim.DYNAMIC for place, size in enumerate(sizes) if size is None}
    advice = ' Try fixed sizes: --size HEIGHT WIDTH --batch 1.' if dynamic else ''
    try:
        # Otherwise a trace asks of every size whether it is 1, and holds for that answer alone.
        with torch.no_grad(), quiet_tracer(), _patch_config(backed_size_oblivious=True):
            return torch.export.export(
                graph, (example,), dynamic_shapes=(dynamic,) if dynamic else None, strict=False
            )
    except GuardOnDataDependentSymNode as error:
        raise ConfigError(
            'the network cannot be exported: it branches on values that a picture or its size decides '
            f'({first_line(error)[:150]}); torch.where computes both branches.{advice}'
        ) from error
    except Exception as error:  # a network makes the tracer raise whatever it meets
        raise ConfigError(
            f'the network cannot be exported: {first_line(error)[:300]}{advice}'
        ) from error


@contextmanager
def quiet_tracer() -> Iterator[None]:
    """Without warnings of the tracer about what it does not need, and without the graphs that it prints.

    What cannot be traced is an error, whose line is all that a user can act on.
    """
    logger = logging.getLogger('torch.fx.experimental.symbolic_shapes')
    former, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.disabled = former
