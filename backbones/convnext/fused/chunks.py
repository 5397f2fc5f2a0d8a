"""Chunks of feature maps that stay in the cache, and memory that they share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

# Most pixels and most hidden activations of a chunk: few enough for the cache that cores share and for
# memory that the process has already, enough for matrix products at full speed.
_CHUNK_PIXELS, _CHUNK_ELEMENTS = 4096, 3 * 2**20


class Scratch:
    """Named buffers that one chunk or block uses after the other.

    The system maps large tensors afresh each time they are allocated, which takes longer than filling
    them.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """An uninitialised ``(rows, columns)`` view of the buffer ``name``, which grows as needed."""
        size = rows * columns
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size:
            memory = self._memory[name] = like.new_empty(size)
        return memory[:size].view(rows, columns)


def _chunk_count(pixels: int, hidden_dim: int) -> int:
    return max(1, round(pixels / min(_CHUNK_PIXELS, max(1, _CHUNK_ELEMENTS // hidden_dim))))


def chunks(pixels: int, hidden_dim: int) -> Iterator[slice]:
    """Even chunks of ``pixels`` with ``hidden_dim`` hidden activations each."""
    count = _chunk_count(pixels, hidden_dim)
    bounds = [pixels * i // count for i in range(count + 1)]
    return (slice(begin, end) for begin, end in pairwise(bounds))


def longest_chunk(pixels: int, hidden_dim: int) -> int:
    """Pixels of the longest of :func:`chunks`."""
    return -(-pixels // _chunk_count(pixels, hidden_dim))


def images_of(pixels: Tensor, count: int, hidden_dim: int) -> Iterator[slice]:
    """The pixels of each of ``count`` images, or of several together where they are small.

    GRN scales the hidden activations of every image by factors of its own. With more pixels than
    channels, it is cheaper to scale the weight of the second layer for each image; with fewer, images
    share their matrix products, as many as make a chunk.
    """
    size = len(pixels) // count
    together = 1
    if 4 * size < hidden_dim:  # hidden activations are four times the channels
        together = max(1, min(_CHUNK_PIXELS, _CHUNK_ELEMENTS // hidden_dim) // size)
    step = size * together
    return (slice(begin, min(begin + step, len(pixels))) for begin in range(0, len(pixels), step))
