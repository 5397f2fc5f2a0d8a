"""Suppression of overlapping boxes in plain Python: what the operators are compared with."""

import math

from backbones.kernels.detection.soft_nms import GAUSSIAN, LINEAR


def iou(a: list, b: list, offset: int = 0) -> float:
    """Of two boxes x1, y1, x2, y2 that are ``x2 - x1 + offset`` wide; NaN where both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return shared / (sum(areas) - shared) if sum(areas) > shared else math.nan


def soft_nms_by_hand(
    boxes, scores, threshold, sigma, min_score, method, offset
) -> list[tuple[int, float]]:
    """Indices and scores of the boxes that Soft-NMS (arXiv 1704.04503, figure 2) keeps, best first."""
    boxes, scores = boxes.tolist(), scores.tolist()
    left, kept = list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        kept.append((best, scores[best]))
        left.remove(best)
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == GAUSSIAN:
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap if method == LINEAR else 0
            if not scores[i] >= min_score:
                left.remove(i)
    return kept
