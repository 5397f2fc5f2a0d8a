"""Masks to draw: pixels, or run-length codes of which the columns of the object alone are decoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pycocotools import mask as rle

# Of smaller images pycocotools decodes all pixels faster than Python does some of them.
_LARGE = 4_000_000


def pixels_of(mask: np.ndarray | Mapping) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a mask, or a part of them with all that are set, and the part's left and top.

    Args:
        mask: ``(H, W)``, or a run-length code of COCO's form.
    """
    if not isinstance(mask, Mapping):
        return np.asarray(mask), (0, 0)
    height, width = mask['size']
    if height * width > _LARGE:
        return cropped(mask)
    code = rle.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask
    return rle.decode(code), (0, 0)


def cropped(code: Mapping) -> tuple[np.ndarray, tuple[int, int]]:
    """The box of a run-length code as pixels ``(h, w)`` of uint8, and its left and top.

    The time it takes depends on the object, not on its image.
    """
    height = int(code['size'][0])
    counts = code['counts']
    edges = np.cumsum(counts if isinstance(counts, list) else _numbers(counts), dtype=np.int64)
    begins, ends = edges[:-1:2], edges[1::2]
    begins, ends = begins[begins < ends], ends[begins < ends]
    if not len(begins):
        return np.zeros((0, 0), np.uint8), (0, 0)
    left, right = int(begins[0]) // height, int(ends[-1] - 1) // height + 1
    columns = np.zeros((right - left) * height, np.uint8)
    for begin, end in zip((begins - left * height).tolist(), (ends - left * height).tolist()):
        columns[begin:end] = 1
    pixels = columns.reshape(-1, height).T
    rows = np.flatnonzero(pixels.any(1))
    top = int(rows[0])
    return np.ascontiguousarray(pixels[top : rows[-1] + 1]), (left, top)


def _numbers(text: str | bytes) -> list[int]:
    """The lengths in a compressed code.

    COCO's format: groups of five bits, the lowest first, each plus 48 as a character; 32 says that
    another group follows, 16 in the last one that the number is negative. From the fourth on a number is
    the difference to the one before the last.
    """
    numbers: list[int] = []
    value = shift = 0
    for sign in text.encode('ascii') if isinstance(text, str) else text:
        group = sign - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
        value = shift = 0
    return numbers
