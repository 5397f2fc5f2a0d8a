"""Scores of pixels from tiles -> classes of a whole picture, whose scores are never there at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .windows import Tiling, Window

# Scores change from one tile to the next within so many pixels in the middle of their overlap. What
# is beyond the middle is nearer to the border of the other tile, which has seen less around it.
_RAMP = 64


class BlendedClasses:
    """The class of every pixel of a picture, from the scores of its tiles.

    Two neighbouring tiles share a strip, within which their scores are averaged with weights that change
    linearly from one to the other; the weights of a pixel add up to 1. All other pixels have one tile.
    Of the scores only the strip between two rows of tiles is kept, and the one between two tiles of a
    row; the memory for them does not depend on the height of the picture.

    Tiles come by :meth:`add` in the order of ``Tiling.rows``.

    Args:
        tiling: How the picture is cut.
        height: Of the picture in pixels.
        width: The same.
        decide: Scores ``(C, h, w)`` -> classes ``(h, w)``.
    """

    def __init__(
        self, tiling: Tiling, height: int, width: int, decide: Callable[[Tensor], Tensor]
    ) -> None:
        self.rows = tiling.rows(height, width)
        self.decide = decide
        # int16: 8 bits would confuse some class with the value of unlabelled pixels
        self.classes = torch.zeros((height, width), dtype=torch.int16)
        self._columns = _shared_strips([(w.left, w.right) for w in self.rows[0]], tiling)
        self._lines = _shared_strips([(row[0].top, row[0].bottom) for row in self.rows], tiling)
        self._place = 0
        self._beside: Tensor | None = None  # the strip that the next tile of the row shares
        self._above: Tensor | None = None  # the strips that the next row shares

    def add(self, window: Window, scores: Tensor) -> None:
        """Add the scores ``(C, h, w)`` of the next tile, whose part of the picture is ``window``."""
        row, column = divmod(self._place, len(self.rows[0]))
        if window != self.rows[row][column]:
            raise ValueError(f'{window} is not the next tile, {self.rows[row][column]}.')
        self._place += 1
        (first, begin), (end, last) = self._lines[row], self._lines[row + 1]
        top, bottom = first, last
        (left, left_end), (right, right_end) = self._columns[column], self._columns[column + 1]
        scores = scores[:, top - window.top : bottom - window.top]
        whole = scores[..., left - window.left : right_end - window.left]
        done = whole[..., : right - left]
        if self._beside is not None and left_end > left:
            done = done.clone()
            done[..., : left_end - left] = _mixed(self._beside, done[..., : left_end - left], -1)
        # a copy: the scores of the tile are not kept for it
        self._beside = whole[..., right - left :].clone() if right_end > right else None
        self._finish(done, left, (first, begin), (end, last))

    def _finish(
        self, scores: Tensor, left: int, above: tuple[int, int], below: tuple[int, int]
    ) -> None:
        """Take scores that no other tile of the row changes; write the classes that are decided."""
        columns = slice(left, left + scores.shape[-1])
        top, end = above[0], below[0]
        decided = scores[:, : end - top]
        if above[1] > top and self._above is not None:
            decided = decided.clone()
            strip = decided[:, : above[1] - top]
            decided[:, : above[1] - top] = _mixed(self._above[..., columns], strip, -2)
        self.classes[top:end, columns] = self.decide(decided).to(self.classes)
        if below[1] > end:
            kept = scores[:, end - top :]
            if self._above is None or self._above.shape[1] != kept.shape[1]:
                shape = (len(kept), kept.shape[1], self.classes.shape[1])
                self._above = torch.empty(shape, dtype=kept.dtype, device=kept.device)
            # read above, and not needed any more
            self._above[..., columns] = kept


def _shared_strips(spans: Sequence[tuple[int, int]], tiling: Tiling) -> list[tuple[int, int]]:
    """Where tiles of a row or column hand over: before the first, between neighbours, after the last."""
    ramp = min(_RAMP, tiling.shared, (tiling.tile - tiling.shared) // 2)
    strips = [(spans[0][0], spans[0][0])]
    for (_, end), (begin, _) in pairwise(spans):
        start = (begin + end - ramp) // 2
        strips.append((start, start + ramp))
    return [*strips, (spans[-1][1], spans[-1][1])]


def _mixed(former: Tensor, latter: Tensor, dim: int) -> Tensor:
    """From ``former`` to ``latter`` along ``dim``."""
    count = latter.shape[dim]
    weight = (torch.arange(count, device=latter.device, dtype=latter.dtype) + 0.5) / count
    weight = weight if dim == -1 else weight[:, None]
    return former + (latter - former) * weight
