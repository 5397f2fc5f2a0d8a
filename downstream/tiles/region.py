"""Masks of objects in a large picture: the pixels of their own box alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle

from .windows import Window


@dataclass
class Region:
    """Pixels ``(h, w)`` of bool, whose first one is at (``left``, ``top``) of the picture."""

    left: int
    top: int
    pixels: np.ndarray

    @classmethod
    def of_mask(cls, mask: np.ndarray, window: Window) -> Region:
        """The region of a mask ``(h, w)`` of a tile."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return cls(window.left, window.top, np.zeros((0, 0), bool))
        top, left = int(rows[0]), int(columns[0])
        # a copy: the mask of the whole tile is not kept for it
        pixels = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool, copy=True)
        return cls(window.left + left, window.top + top, pixels)

    @property
    def right(self) -> int:
        return self.left + self.pixels.shape[1]

    @property
    def bottom(self) -> int:
        return self.top + self.pixels.shape[0]

    def area(self, window: Window | None = None) -> int:
        """How many pixels it has, of those in ``window`` if that is given."""
        return int(np.count_nonzero(self.pixels if window is None else self._part(window)))

    def shared(self, other: Region) -> int:
        """How many pixels are in both."""
        window = Window(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        if window.width <= 0 or window.height <= 0:
            return 0
        return int(np.count_nonzero(self._part(window) & other._part(window)))

    def _part(self, window: Window) -> np.ndarray:
        rows = slice(max(0, window.top - self.top), max(0, window.bottom - self.top))
        columns = slice(max(0, window.left - self.left), max(0, window.right - self.left))
        return self.pixels[rows, columns]

    def run_lengths(self, height: int, width: int) -> Mapping:
        """COCO's compressed run lengths in a picture of this size, which is never drawn."""
        # Columns one after another, each between pixels that are not set, so that every run ends.
        framed = np.zeros((self.pixels.shape[1], self.pixels.shape[0] + 2), bool)
        framed[:, 1:-1] = self.pixels.T
        column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])
        changes = (self.left + column).astype(np.int64) * height + self.top + row
        # A run that reaches the last row goes on in the first one of the next column.
        begins, ends = changes[::2], changes[1::2]
        joined = np.flatnonzero(begins[1:] == ends[:-1])
        begins, ends = np.delete(begins, joined + 1), np.delete(ends, joined)
        edges = np.concatenate([[0], np.stack([begins, ends], 1).ravel(), [height * width]])
        counts = np.diff(edges)
        counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
        return rle.frPyObjects({'counts': counts.tolist(), 'size': [height, width]}, height, width)


def united(regions: Sequence[Region]) -> Region:
    """One region of several, with the pixels of all."""
    left, top = min(r.left for r in regions), min(r.top for r in regions)
    right, bottom = max(r.right for r in regions), max(r.bottom for r in regions)
    pixels = np.zeros((bottom - top, right - left), bool)
    for region in regions:
        height, width = region.pixels.shape
        y, x = region.top - top, region.left - left
        pixels[y : y + height, x : x + width] |= region.pixels
    return Region(left, top, pixels)
