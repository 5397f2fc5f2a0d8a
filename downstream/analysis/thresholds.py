"""The score threshold at which a detector is at its best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Threshold:
    """A score threshold and what it gives; detections at the threshold count.

    All but ``name`` are None where no threshold finds an object.
    """

    name: str
    score: float | None = None
    f1: float | None = None
    precision: float | None = None
    recall: float | None = None


def best_threshold(name: str, scores: np.ndarray, right: np.ndarray, objects: int) -> Threshold:
    """The threshold of the largest F1, the highest of several.

    Args:
        name: Of the class.
        scores: ``(N,)``, of detections that count.
        right: ``(N,)`` of bool.
        objects: How many there are to find.
    """
    if not objects or not right.any():
        return Threshold(name)
    order = np.argsort(-scores, kind='stable')
    scores, hits = scores[order], np.cumsum(right[order])
    # A threshold takes all detections of its score.
    last = np.append(scores[:-1] != scores[1:], True)
    scores, hits, count = scores[last], hits[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (count + objects)
    best = int(f1.argmax())
    return Threshold(
        name,
        float(scores[best]),
        float(f1[best]),
        float(hits[best] / count[best]),
        float(hits[best] / objects),
    )
