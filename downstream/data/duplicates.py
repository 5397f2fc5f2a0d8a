"""Near-duplicates among images: a fingerprint that small changes of an image leave nearly as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .images.picture import is_ordinary, picture_of_file
from .images.read import read_header

_SIDE = 8
_BITS = 2 * _SIDE * _SIDE
# Less contrast than this between cells is noise, of which a fingerprint would be made.
_MIN_SPREAD = 2.0
# Of 128 bits. A photograph that was compressed or scaled differs from itself in at most 8, any two of 103
# photographs of COCO and ADE20K in at least 37.
TOLERANCE = 10


def fingerprint(image: Image.Image | Path | str) -> bytes | None:
    """128 bits that tell whether a cell is brighter than its right and its lower neighbour (dHash).

    Args:
        image: An image as it is stored, of which the EXIF orientation is applied; or its path.

    Returns:
        16 bytes; None for an image of hardly any contrast, which is like all others of its kind.

    Raises:
        OSError: The file is cut off.
        DataError: It is no image.
    """
    if not isinstance(image, Image.Image):
        header = read_header(image)
        if not is_ordinary(header):
            return fingerprint(Image.fromarray(picture_of_file(Path(image), header)))
        with Image.open(image) as opened:
            opened.draft('L', (16 * _SIDE, 16 * _SIDE))  # JPEG is decoded at a smaller size
            return fingerprint(opened)
    grey = ImageOps.exif_transpose(image).convert('L')
    cells = grey.resize((_SIDE + 1, _SIDE + 1), Image.Resampling.BOX)
    values = np.asarray(cells, np.int16)
    if values.std() < _MIN_SPREAD:
        return None
    right = values[:_SIDE, :_SIDE] > values[:_SIDE, 1:]
    down = values[:_SIDE, :_SIDE] > values[1:, :_SIDE]
    return np.packbits(np.stack([right, down])).tobytes()


def groups(fingerprints: Sequence[bytes | None], tolerance: int = TOLERANCE) -> list[list[int]]:
    """Images that are near-duplicates of each other, directly or through others.

    Two fingerprints that differ in at most ``tolerance`` bits agree in at least one of
    ``tolerance + 1`` bands of bits, so that only images with a band in common are compared.

    Args:
        fingerprints: Of each image; those that are None are left out.
        tolerance: How many bits may differ.

    Returns:
        Groups of two images and more as indices, each in ascending order.
    """
    known = {i: one for i, one in enumerate(fingerprints) if one is not None}
    if len(known) < 2:
        return []
    packed = np.frombuffer(b''.join(known.values()), np.uint8).reshape(len(known), -1)
    bits = np.unpackbits(packed, axis=1)
    parents = list(range(len(known)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for band in np.array_split(np.arange(_BITS), tolerance + 1):
        keys = np.packbits(bits[:, band], axis=1)
        order = np.lexsort(keys.T)
        changes = np.flatnonzero((keys[order[1:]] != keys[order[:-1]]).any(1)) + 1
        for alike in np.split(order, changes):
            _join_near(alike, packed, tolerance, parents, root)
    members: dict[int, list[int]] = {}
    for i, original in enumerate(known):
        members.setdefault(root(i), []).append(original)
    return [group for group in members.values() if len(group) > 1]


def _join_near(alike, packed, tolerance, parents, root) -> None:
    """Join the images of ``alike``, which agree in a band, whose fingerprints are near."""
    for place, i in enumerate(alike[:-1]):
        others = alike[place + 1 :]
        distance = np.unpackbits(packed[others] ^ packed[i], axis=1).sum(1)
        for j in others[distance <= tolerance]:
            parents[root(int(j))] = root(int(i))
