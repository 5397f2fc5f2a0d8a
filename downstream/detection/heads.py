"""Heads of mmdet that train and then fail in their prediction, made whole.

- ``SSDHead`` does not set ``loss_cls``, which the prediction of mmdet 3.3 and later reads.
- On a CPU the masks of a box that is outside of its image cannot be pasted. Heads that clip their boxes
  have none of these; QueryInst's boxes are as its queries move them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import SSDHead
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class PredictingSSDHead(SSDHead):
    """mmdet's ``SSDHead``, which also predicts; takes the same arguments."""

    # Softmax, whatever loss a subclass names: that of SSD is a function.
    loss_cls = None


@MODELS.register_module()
class PredictingDynamicMaskHead(DynamicMaskHead):
    """mmdet's ``DynamicMaskHead`` that pastes masks of any box on a CPU; takes the same arguments."""

    def predict_by_feat(
        self,
        mask_preds: Sequence[Tensor],
        results_list: list[InstanceData],
        batch_img_metas: list[dict],
        rcnn_test_cfg: Mapping[str, Any],
        rescale: bool = False,
        activate_map: bool = False,
    ) -> list[InstanceData]:
        """As in ``FCNMaskHead``; the mask of a box outside of its image is empty."""
        inside = [
            _touches(results.bboxes, meta, rescale)
            for results, meta in zip(results_list, batch_img_metas)
        ]
        pasted = super().predict_by_feat(
            [masks[kept] for masks, kept in zip(mask_preds, inside)],
            [results[kept] for results, kept in zip(results_list, inside)],
            batch_img_metas,
            rcnn_test_cfg,
            rescale,
            activate_map,
        )
        for results, found, kept, meta in zip(results_list, pasted, inside, batch_img_metas):
            masks = found.masks
            results.masks = masks.new_zeros(len(kept), *masks.shape[1:])
            results.masks[kept] = masks
            if rescale:
                results.bboxes = results.bboxes / results.bboxes.new_tensor(
                    meta['scale_factor'] * 2
                )
        return results_list


def _touches(boxes: Tensor, meta: Mapping[str, Any], rescale: bool) -> Tensor:
    """Which of the boxes ``(N, 4)`` are less than a pixel from their image: mmdet pastes their masks."""
    height, width = meta['ori_shape'][:2]
    scale = boxes.new_tensor(meta['scale_factor'])
    size = boxes.new_tensor([width, height])
    if rescale:
        boxes = boxes / scale.repeat(2)
    else:
        size = size * scale
    near = (boxes[:, 2:] > -1) & (boxes[:, :2] < size + 1)
    return near.all(1) & torch.isfinite(boxes).all(1)
