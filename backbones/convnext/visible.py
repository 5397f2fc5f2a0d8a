"""Networks on the visible cells of masked images alone (ConvNeXt V2, section 3.1).

Every image of a batch has the same number of visible cells, so that these form an ordinary tensor, a
*stack*: the visible cells of an image, one below the other. Whatever works site by site (norms, linear
layers, activations, convolutions whose stride is their size) or over all sites of a sample (global
response normalisation) computes on stacks what it would on sparse maps, as it is. Only the depthwise
convolution needs to know where the cells are: its neighbours are the visible ones, and others count as 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from backbones.errors import ConfigError


def count_seen(height: int, width: int, cell: int, mask_ratio: float) -> int:
    """How many cells of ``cell x cell`` pixels are seen of an image of ``height x width`` pixels.

    Raises:
        ConfigError: The image is no whole number of cells, or all of them would be hidden or seen.
    """
    if height % cell or width % cell:
        uneven = height if height % cell else width
        near = [side for side in (uneven // cell * cell, uneven // cell * cell + cell) if side]
        raise ConfigError(
            f'images of {height}x{width} pixels are no whole number of cells of {cell}x{cell}: crop '
            f'to a multiple of {cell} pixels, {" or ".join(map(str, near))}.'
        )
    cells = (height // cell) * (width // cell)
    seen = int(cells * (1 - mask_ratio) + 1e-9)
    if not 0 < seen < cells:
        raise ConfigError(
            f'mask_ratio={mask_ratio} shows {seen} of the {cells} cells of an image of '
            f'{height}x{width} pixels: at least one must be seen and one hidden; take larger images '
            'or another ratio.'
        )
    return seen


class VisibleCells:
    """Which cells of each image are seen.

    A stack of side ``s`` is ``(N, C, K s, s)``: K visible cells of ``s x s`` sites, in the order of rows,
    then columns, of the grid. It belongs to the map ``(N, C, G s, H s)`` of the whole ``G x H`` grid.
    Both are in channels_last memory format.

    Args:
        visible: ``(N, G, H)``, true where a cell is seen; as many in each image.

    Raises:
        ConfigError: Images have different numbers of visible cells, or none.
    """

    def __init__(self, visible: Tensor) -> None:
        count, self.height, self.width = visible.shape
        cells = visible.flatten().nonzero().flatten()
        self.count, self.per_image = count, len(cells) // count
        same = visible.flatten(1).sum(1) == self.per_image
        if not self.per_image or not bool(same.all()):
            raise ConfigError(
                'every image of a batch needs the same number of visible cells, and at least one.'
            )
        self._visible, self._cells = visible, cells
        self._rows: dict[int, Tensor] = {}

    @classmethod
    def drawn(
        cls,
        images: Tensor,
        cell: int,
        mask_ratio: float,
        generator: torch.Generator | None = None,
    ) -> VisibleCells:
        """Cells drawn at random, for each image its own.

        Args:
            images: ``(N, C, height, width)``.
            cell: Side of a cell in pixels.
            mask_ratio: Part of the cells that are hidden; ``int(cells (1 - mask_ratio))`` are seen: 19
                of 49 at 0.6.
            generator: Of the random numbers, on the device of ``images``.

        Raises:
            ConfigError: The images are no whole number of cells, or all of them would be hidden.
        """
        count, _, height, width = images.shape
        seen = count_seen(height, width, cell, mask_ratio)
        grid = (height // cell, width // cell)
        cells = grid[0] * grid[1]
        noise = torch.rand(count, cells, device=images.device, generator=generator)
        visible = torch.zeros(count, cells, dtype=torch.bool, device=images.device)
        visible.scatter_(1, noise.argsort(1)[:, :seen], True)
        return cls(visible.view(count, *grid))

    @property
    def mask(self) -> Tensor:
        """``(N, G, H)``, true where a cell is seen."""
        return self._visible

    @cached_property
    def hidden(self) -> VisibleCells:
        """The other cells. Counting them once spares a GPU waiting for its results again."""
        return VisibleCells(~self._visible)

    def of_samples(self, samples: Tensor) -> VisibleCells:
        """The cells of the images ``samples`` (indices) alone."""
        return VisibleCells(self._visible[samples])

    def gather(self, x: Tensor) -> Tensor:
        """The stack of the map ``x`` ``(N, C, G s, H s)``, or of images with ``s`` pixels a cell."""
        side, channels = x.shape[-1] // self.width, x.shape[1]
        rows = _TakeRows.apply(_in_rows(x, side), self._rows_of(side))
        return rows.view(self.count, -1, side, channels).permute(0, 3, 1, 2)

    def scatter(self, x: Tensor) -> Tensor:
        """The map of the stack ``x`` ``(N, C, K s, s)``: 0 where cells are hidden."""
        side, channels = x.shape[-1], x.shape[1]
        total = self.count * self.height * side * self.width
        rows = _PutRows.apply(_in_rows(x, side), self._rows_of(side), total)
        sizes = (self.count, self.height * side, self.width * side, channels)
        return rows.view(sizes).permute(0, 3, 1, 2)

    def convolve(self, convolution: nn.Module, x: Tensor) -> Tensor:
        """``convolution``, which keeps the size of a map, of a stack: hidden neighbours are 0."""
        return self.gather(convolution(self.scatter(x)))

    def prepare(self, sides: Iterable[int]) -> None:
        """Compute the indices of cells of these sides now.

        Whatever is computed in a block is a side effect that torch.compile cannot trace where the block
        is recomputed.
        """
        for side in sides:
            self._rows_of(side)

    def _rows_of(self, side: int) -> Tensor:
        """Where the rows of the stack are in the map, both counted in rows of one cell."""
        if side not in self._rows:
            above = self._cells.div(self.width, rounding_mode='floor')
            lines = above[:, None] * side + torch.arange(side, device=self._cells.device)
            rows = lines * self.width + (self._cells % self.width)[:, None]
            self._rows[side] = rows.flatten()
        return self._rows[side]


def _in_rows(x: Tensor, side: int) -> Tensor:
    """``(N, C, H, W)`` as rows of ``side`` pixels, each with its channels."""
    return x.permute(0, 2, 3, 1).reshape(-1, side * x.shape[1])


class _TakeRows(torch.autograd.Function):
    """``x[rows]`` for different ``rows``: its gradient needs no sum, and no atomic operations."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.total = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _PutRows.apply(grad, rows, ctx.total), None


class _PutRows(torch.autograd.Function):
    """``total`` rows of zeros with those of ``x`` at ``rows``."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(total, x.shape[1]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _TakeRows.apply(grad.contiguous(), rows), None, None
