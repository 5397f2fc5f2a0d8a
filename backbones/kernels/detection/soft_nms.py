"""Soft-NMS on a CPU, in C where there is a compiler: in PyTorch it launches a dozen operators per box."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from ..build import call, load_library
from ..eager import is_plain_eager

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``soft_nms.c``; None where it cannot be made."""
    return load_library(Path(__file__).with_name('soft_nms.c'), {'soft_nms': 'ppppppnnnt'})


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017, arXiv 1704.04503) on the CPU, computed in float64.

    Boxes that overlap a better one lose score instead of being dropped.

    Args:
        boxes: ``(N, 4)``: x1, y1, x2, y2; a box is ``x2 - x1 + offset`` wide.
        scores: ``(N,)``.
        iou_threshold: From which IoU on the methods naive and linear lower a score.
        sigma: Of the Gaussian, in squared IoU.
        min_score: Boxes of a lower score are dropped.
        method: ``NAIVE`` multiplies a score by 0, ``LINEAR`` by ``1 - IoU``, ``GAUSSIAN`` by
            ``exp(-IoU^2 / sigma)``.
        offset: See ``boxes``.

    Returns:
        Indices of the kept boxes, best first, and their scores, each ``(K,)``; scores are float64.
    """
    exact, lowered = boxes.double().contiguous(), scores.double().clone()
    options = (iou_threshold, sigma, min_score)
    library = compiled()
    if library is None or not (is_plain_eager(exact) and is_plain_eager(lowered)):
        kept = _by_torch(exact, lowered, *options, method, offset)
        return kept, lowered[kept]
    order, left = torch.empty(2, len(exact), dtype=torch.long).unbind()
    count = torch.zeros(1, dtype=torch.long)
    settings = torch.tensor(options, dtype=torch.float64)
    tensors = (exact, lowered, order, count, left, settings)
    call(library.soft_nms, *tensors, len(exact), method, offset)
    kept = order[: int(count)].clone()
    return kept, lowered[kept]


def _by_torch(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the kept boxes; ``scores`` are lowered in place."""
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    left = torch.arange(len(boxes))
    kept = []
    while left.numel():
        best = left[scores[left].argmax()]
        kept.append(best)
        left = left[left != best]
        top_left = torch.maximum(boxes[best, :2], boxes[left, :2])
        bottom_right = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        overlap = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
        iou = overlap / (areas[best] + areas[left] - overlap)
        if method == GAUSSIAN:
            weight = torch.exp(-(iou**2) / sigma)
        else:
            above = 1 - iou if method == LINEAR else torch.zeros_like(iou)
            weight = torch.where(iou >= iou_threshold, above, 1.0)
        scores[left] *= weight
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)
