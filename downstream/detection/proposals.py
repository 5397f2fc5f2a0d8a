"""How many objects the proposals of an RPN find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.evaluation.metrics import CocoMetric
from mmengine.registry import METRICS
from torchvision.ops import box_iou

from downstream.distributed.gather import DataOnlyMetric

from .completed import read_truth


@METRICS.register_module()
class ProposalRecallMetric(DataOnlyMetric, CocoMetric):
    """mmdet's ``CocoMetric`` of ``metric='proposal_fast'``; takes the same arguments.

    mmdet makes one array of the overlaps in all images, which NumPy 1.24 and later refuse where images
    have different numbers of objects. Here images are also told apart by their id, whatever their order.
    """

    # process stores arrays and numbers.
    results_on_cpu = True

    def __init__(self, ann_file: str | None = None, *args, **kwargs) -> None:
        sort_categories = kwargs.pop('sort_categories', False)
        super().__init__(None, *args, **kwargs)
        if ann_file is not None:
            self._coco_api = read_truth(ann_file, self.backend_args, sort_categories)

    def fast_eval_recall(
        self,
        results: Sequence[dict],
        proposal_nums: Sequence[int],
        iou_thrs: Sequence[float],
        logger: Any = None,
    ) -> np.ndarray:
        """Mean recall over ``iou_thrs`` at each number of proposals.

        Args:
            results: For each image ``img_id``, ``bboxes`` ``(N, 4)``, left, top, right and bottom in
                pixels, and ``scores`` ``(N,)``.
            proposal_nums: How many of the best proposals of an image count.
            iou_thrs: Overlaps from which on an object is found.
            logger: Of mmdet's signature; the figures are returned alone.

        Returns:
            ``(len(proposal_nums),)``; NaN without objects.
        """
        found: list[list[np.ndarray]] = [[] for _ in proposal_nums]
        for result in results:
            best = np.argsort(-np.asarray(result['scores']), kind='stable')
            boxes = torch.from_numpy(np.asarray(result['bboxes'], np.float32).reshape(-1, 4)[best])
            overlaps = box_iou(self._objects(result['img_id']), boxes).numpy()
            for matched, number in zip(found, proposal_nums):
                matched.append(greedy_overlaps(overlaps[:, :number]))
        return np.array([_mean_recall(np.concatenate(one), iou_thrs) for one in found])

    def _objects(self, image: int) -> torch.Tensor:
        """Boxes of an image that are to be found, ``(N, 4)``."""
        entries = self._coco_api.load_anns(self._coco_api.get_ann_ids(img_ids=image))
        boxes = [one['bbox'] for one in entries if not one.get('ignore') and not one['iscrowd']]
        tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        tensor[:, 2:] += tensor[:, :2]
        return tensor


def greedy_overlaps(overlaps: np.ndarray) -> np.ndarray:
    """The overlap of each object with a proposal of its own, the largest first; 0 where none is left.

    Args:
        overlaps: Of objects and proposals, ``(N, M)``.

    Returns:
        ``(N,)``.
    """
    left = overlaps.copy()
    taken = np.zeros(len(left), np.float32)
    for _ in range(min(left.shape)):
        one, proposal = np.unravel_index(left.argmax(), left.shape)
        taken[one] = left[one, proposal]
        left[one] = left[:, proposal] = -1
    return taken


def _mean_recall(overlaps: np.ndarray, thresholds: Sequence[float]) -> float:
    if not len(overlaps):
        return float('nan')
    return float(np.mean([(overlaps >= threshold).mean() for threshold in thresholds]))
