"""Box arithmetic that ``torch.export`` can follow: no branch on data, nothing in place.

The results are those of mmdet's ``DeltaXYWHBBoxCoder``, ``AnchorGenerator`` and mmcv's ``batched_nms``.
Boxes are float32 ``(n, 4)``: x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torchvision
from torch import Tensor

from backbones.errors import ConfigError

# Deltas of width and height stay within a factor of 1000 / 16, as in mmdet's coder.
_MAX_LOG_SCALE = abs(math.log(16 / 1000))
# Two boxes that no other box overlaps, and a score that a runtime does not take for none.
_FAR_BOXES = [[-2e5, -2e5, -1e5, -1e5], [-4e5, -4e5, -3e5, -3e5]]
_LEAST_SCORE = 1e-30


# How many: an int, or symbolic while a network is traced, which torch's own annotations leave out.
Length: TypeAlias = Any


def grid_anchors(base: Tensor, stride: tuple[int, int], height: Length, width: Length) -> Tensor:
    """Anchors of one level, row by row of its map.

    Args:
        base: Anchors of the cell at the origin, ``(A, 4)``.
        stride: Pixels from a cell to the next, right and down.
        height: Cells of the map.
        width: Cells of the map.

    Returns:
        ``(height * width * A, 4)``.
    """
    x = torch.arange(width, device=base.device, dtype=base.dtype) * stride[0]
    y = torch.arange(height, device=base.device, dtype=base.dtype) * stride[1]
    corner = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=-1)
    shifts = torch.cat([corner, corner], dim=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


@dataclass(frozen=True)
class Decoder:
    """Deltas -> boxes, clipped to the image.

    Args:
        means: Added to the scaled deltas of x, y, width and height.
        stds: The deltas are multiplied by these.
        clips: Whether boxes end at the border of the image.
    """

    means: Sequence[float]
    stds: Sequence[float]
    clips: bool

    def __call__(self, boxes: Tensor, deltas: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """``boxes`` and ``deltas``: ``(n, 4)``; ``height`` and ``width`` of the image: no dimensions."""
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        size = boxes[:, 2:] - boxes[:, :2]
        center = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + size * deltas[:, :2]
        size = size * deltas[:, 2:].clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE).exp()
        decoded = torch.cat([center - size * 0.5, center + size * 0.5], dim=1)
        if not self.clips:
            return decoded
        limit = torch.stack([width, height, width, height])
        return decoded.clamp(min=0).minimum(limit)


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression as mmcv's ``batched_nms`` does it with ``type='nms'``.

    Args:
        iou_threshold: A box is dropped if its IoU with a better one is larger.
        separates: Whether boxes of different groups leave each other alone.
        limit: At most so many boxes are kept; None: no limit.
        head: So many of the best boxes are compared first, and others only if these leave less than
            ``limit``, which changes no result: without a threshold of scores there are 80,000 boxes, each
            of which would be compared with thousands of better ones. None: all at once.
    """

    iou_threshold: float
    separates: bool
    limit: int | None
    head: int | None = None

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        """Indices of the kept boxes, best first, ``(k,)``.

        Args:
            boxes: ``(n, 4)``.
            scores: ``(n,)``.
            groups: Class or level of each box, ``(n,)``.
        """
        if self.separates:
            # The zero gives an empty set of boxes a maximum. The offset is mmcv's: another one would
            # round the shifted boxes differently.
            largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
            boxes = boxes + (groups.to(boxes.dtype) * (largest + 1))[:, None]
        if self.limit is None or self.head is None:
            return self._kept(boxes, scores)
        # The zero is for fewer boxes than that, or none.
        some = torch.sym_min(scores.shape[0] + 1, self.head)
        least = torch.cat([scores, scores.new_zeros(1)]).topk(some).values.min()
        first = (scores >= least).nonzero().squeeze(1)
        kept = first[self._kept(boxes[first], scores[first])]
        # Boxes that none but better ones can suppress: the others need these alone.
        missing = torch.ones_like(kept).sum() < self.limit
        others = ((scores < least) & missing).nonzero().squeeze(1)
        left = torch.cat([kept, others])
        return left[self._kept(boxes[left], scores[left])]

    def _kept(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Indices of the best ``limit`` boxes that no better one suppresses, whatever their groups."""
        # torchvision tells the tracer that two boxes are kept at least, and a program of torch.export
        # stops where they are not.
        count = boxes.shape[0]
        boxes = torch.cat([boxes, boxes.new_tensor(_FAR_BOXES)])
        scores = torch.cat([scores, torch.full_like(boxes[:2, 0], _LEAST_SCORE)])
        kept = torchvision.ops.nms(boxes, scores, self.iou_threshold)
        kept = kept[(kept < count).nonzero().squeeze(1)]
        return kept if self.limit is None else kept[: self.limit]


def suppression(nms: Mapping, limit: int, where: str) -> tuple[Suppression, bool]:
    """The suppression that a config asks for, and whether it stands in for soft-NMS.

    Soft-NMS lowers scores in a loop whose length depends on the data, which no exported graph can hold.

    Args:
        nms: ``dict(type=..., iou_threshold=...)``, as in mmdet's ``test_cfg``.
        limit: ``max_per_img``; not positive: no limit.
        where: What the error calls the config, e.g. ``test_cfg.rcnn.nms``.

    Raises:
        ConfigError: Another type of suppression, or an option that would change the result.
    """
    options = dict(nms)
    kind = options.pop('type', 'nms')
    if kind not in ('nms', 'soft_nms'):
        raise ConfigError(f'{where} has type={kind!r}; nms and soft_nms can be exported.')
    # mmcv's own default for soft-NMS is 0.3, but with a linear weight, not a cut.
    iou_threshold = float(options.pop('iou_threshold', options.pop('iou_thr', 0.5)))
    separates = not options.pop('class_agnostic', False)
    options.pop('split_thr', None)  # the same result in parts
    if kind == 'soft_nms':
        for option in ('sigma', 'min_score', 'method'):
            options.pop(option, None)
    changing = sorted(key for key, value in options.items() if not _is_default(key, value))
    if changing:
        raise ConfigError(
            f'{where} has {", ".join(changing)}, which cannot be exported; remove it.'
        )
    return Suppression(iou_threshold, separates, limit if limit > 0 else None), kind == 'soft_nms'


def _is_default(option: str, value: object) -> bool:
    return {'offset': 0, 'max_num': -1, 'score_threshold': 0}.get(option) == value
