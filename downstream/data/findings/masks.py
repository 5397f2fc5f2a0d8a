"""Values of segmentation masks: of one mask, and of all masks of a part together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from downstream.data.files import IGNORED

from .classes import class_findings
from .finding import Finding

Values = Mapping[int, int]


def index_values(classes: int, reduce_zero_label: bool) -> dict[int, int]:
    """Value of a pixel -> class index, as mmseg reads masks.

    Args:
        classes: Their number.
        reduce_zero_label: Whether 0 is unlabelled and class k has the value k + 1.
    """
    return {k + reduce_zero_label: k for k in range(classes)}


def counted(mask: np.ndarray) -> Counter[int]:
    """How many pixels of a mask ``(H, W)`` have each value."""
    if mask.dtype == np.uint8:
        pixels = np.bincount(mask.reshape(-1), minlength=256)
        return Counter({int(v): int(pixels[v]) for v in np.flatnonzero(pixels)})
    values, pixels = np.unique(mask, return_counts=True)
    return Counter(dict(zip(values.tolist(), pixels.tolist())))


def form_finding(path: Path, mask: np.ndarray) -> Finding | None:
    """Why an array cannot be a mask of class indices; None if it can."""
    if mask.ndim != 2:
        detail = f'has shape {mask.shape}; a mask has one channel, of class indices'
        return Finding('mask-channels', str(path), detail)
    if mask.dtype.itemsize > 1 and mask.size and mask.max() > IGNORED:
        return Finding('mask-bits', str(path), f'has values up to {mask.max()} ({mask.dtype})')
    return None


def value_finding(
    path: Path, pixels: Mapping[int, int], classes: int, reduce_zero_label: bool
) -> Finding | None:
    """A value of a mask that is neither a class nor unlabelled; None without one.

    Args:
        path: The mask.
        pixels: How many pixels have each value.
        classes: Their number.
        reduce_zero_label: See :func:`index_values`.
    """
    known = index_values(classes, reduce_zero_label)
    wrong = [
        value
        for value in sorted(pixels)
        if value not in known and value != IGNORED and not (reduce_zero_label and value == 0)
    ]
    if not wrong:
        return None
    unlabelled = 'unlabelled 0 or 255' if reduce_zero_label else 'unlabelled 255'
    detail = (
        f'has the value {wrong[0]} in {pixels[wrong[0]]} pixels; allowed for {classes} classes: '
        f'{min(known)} to {max(known)}, {unlabelled} (reduce_zero_label={reduce_zero_label})'
    )
    if wrong == [classes] and not reduce_zero_label:
        detail += '. If the masks count their classes from 1, set reduce_zero_label=True'
    return Finding('mask-value', str(path), detail)


def set_findings(
    where: str,
    masks: Mapping[Path, Mapping[int, int]],
    classes: Sequence[str],
    values: Values,
    trained: bool,
) -> list[Finding]:
    """What is wrong with the masks of a part together.

    Args:
        where: The folder of the masks, for messages.
        masks: How many pixels of each mask have each value.
        classes: Their names.
        values: Value of a pixel -> class index; other values are unlabelled.
        trained: Whether a model learns from them, so that they must hold something to learn.
    """
    pixels: Counter[int] = Counter()
    found = []
    for path, own in masks.items():
        pixels.update(own)
        if not any(value in values for value in own):
            shown = ', '.join(map(str, sorted(own)))
            detail = f'has no labelled pixel, only the value {shown}, which is no class'
            found.append(Finding('mask-unlabelled', str(path), detail, image=path))
    labelled = Counter({values[v]: n for v, n in pixels.items() if v in values})
    if trained and (nothing := nothing_to_learn(where, pixels, values)):
        return [nothing, *found]
    counts = {name: labelled[index] for index, name in enumerate(classes)}
    found += class_findings(where, classes, counts, 'pixel')
    last = max(values, default=0)
    if (
        0 not in values
        and len(values) > 1
        and not pixels[last]
        and all(map(pixels.get, range(last)))
    ):
        detail = (
            f'has the value 0, which is unlabelled, and never {last}: if its masks count their classes '
            'from 0, set reduce_zero_label=False'
        )
        found.append(Finding('mask-shift', where, detail))
    return found


def nothing_to_learn(
    where: str, pixels: Mapping[int, int] | Iterable[int], values: Values
) -> Finding | None:
    """An error if masks with these values tell no two classes apart.

    Args:
        where: The folder of the masks, for messages.
        pixels: The values that occur.
        values: Value of a pixel -> class index.
    """
    occurring = set(pixels)
    labelled = {values[value] for value in occurring if value in values}
    if len(labelled) > 1 or not occurring:
        return None
    if occurring == {0, IGNORED} and IGNORED not in values:
        unlabelled = 'value 255 is unlabelled' if 0 in values else 'both are unlabelled'
        detail = f'has masks with the values 0 and 255 alone; {unlabelled}'
        return Finding('mask-binary', where, detail)
    shown = ', '.join(map(str, sorted(occurring)[:8]))
    detail = f'has masks of at most one class (values {shown})'
    return Finding('mask-nothing', where, detail)
