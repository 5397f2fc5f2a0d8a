"""The annotations of a data sample drawn on its image, for both tasks, in the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from downstream.drawing import draw_detections, draw_segmentation


def draw_truth(image: np.ndarray, sample: Any, classes: Sequence[str]) -> np.ndarray | None:
    """An image with its annotations; None where the sample has none.

    Objects that are crowds are named as such; pixels without a label stay as they are.

    Args:
        image: BGR ``(H, W, 3)`` of uint8. An image that is larger than the annotated part, as a padded
            batch has it, is cropped to a label map.
        sample: Of mmdet, with ``gt_instances`` and maybe ``ignored_instances``, or of mmseg, with
            ``gt_sem_seg``.
        classes: Names.
    """
    if 'gt_sem_seg' in sample:
        labels = as_array(sample.gt_sem_seg.data[0])
        height, width = labels.shape
        return draw_segmentation(image[:height, :width], labels, classes)
    if 'gt_instances' not in sample:
        return None
    parts = [sample.gt_instances, sample.get('ignored_instances')]
    parts = [part for part in parts if part is not None]
    masks = None
    if any('masks' in part for part in parts):
        masks = [mask for part in parts for mask in _masks(part, image.shape[:2])]
    return draw_detections(
        image,
        np.concatenate([as_array(part.bboxes).reshape(-1, 4) for part in parts]),
        np.concatenate([as_array(part.labels) for part in parts]),
        masks=masks,
        classes=classes,
        crowds=np.repeat([False, True][: len(parts)], [len(part.labels) for part in parts]),
    )


def as_array(values: Any) -> np.ndarray:
    """A tensor, or boxes of one of mmdet's types, as an array."""
    return getattr(values, 'tensor', values).detach().cpu().numpy()


def _masks(objects: Any, shape: Sequence[int]) -> list[np.ndarray]:
    """The masks of objects at the size of an image; empty ones where they have none."""
    whole = np.zeros((len(objects.labels), *shape), np.uint8)
    if 'masks' in objects:
        masks = objects.masks.to_ndarray()[:, : shape[0], : shape[1]]
        whole[:, : masks.shape[1], : masks.shape[2]] = masks
    return list(whole)
