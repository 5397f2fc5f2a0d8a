"""How far what a file computes is from what its model computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# The same object in another precision: of the same class, overlapping by so much, with a score that
# differs by no more.
_SAME_IOU = 0.9
_SAME_SCORE = 0.05


def difference(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], score_threshold: float = 0
) -> float:
    """How far outputs of a file are from those of its model, 0 to 1 and beyond; NaN: not comparable.

    Of objects it is the part of the scores that belongs to objects without a counterpart: their order,
    and which of two that overlap is left, turn with the last digit. Of logits it is the largest
    difference as a part of the largest value, of classes the part of the pixels.

    Args:
        found: By name, as the file returns them.
        expected: Likewise, of the model.
        score_threshold: The file leaves out objects below; one that is just above may be missing.
    """
    if 'boxes' in expected:
        return _of_objects(found, expected, score_threshold)
    ((name, wanted),) = expected.items()
    if found[name].shape != wanted.shape:
        return float('nan')
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind != 'f':
        return float((found[name] != wanted).mean())
    return float(np.abs(found[name] - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def _of_objects(found: Mapping, expected: Mapping, score_threshold: float) -> float:
    both = np.concatenate([found['scores'], expected['scores']])
    if not both.size:
        return 0.0
    missed = _without_counterpart(found, expected) + _without_counterpart(expected, found)
    certain = [score for score in missed if score > score_threshold + _SAME_SCORE]
    return float(np.sum(certain) / both.sum())


def _without_counterpart(objects: Mapping, others: Mapping) -> list[float]:
    """Scores of the objects that are not among the others; each of these counts once."""
    same = _ious(objects['boxes'], others['boxes']) >= _SAME_IOU
    same &= objects['labels'][:, None] == others['labels']
    same &= np.abs(objects['scores'][:, None] - others['scores']) <= _SAME_SCORE
    missed, taken = [], np.zeros(len(others['scores']), bool)
    for candidates, score in zip(same, objects['scores']):
        free = np.flatnonzero(candidates & ~taken)
        if free.size:
            taken[free[0]] = True
        else:
            missed.append(float(score))
    return missed


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``(n, 4)`` and ``(m, 4)`` -> ``(n, m)``."""
    corner = np.maximum(boxes[:, None, :2], others[:, :2])
    opposite = np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = np.clip(opposite - corner, 0, None).prod(-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others))
    return common / np.maximum(areas[:, None] + other_areas - common, 1e-6)
