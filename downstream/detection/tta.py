"""Test-time augmentation of instance segmentation: boxes, scores and masks of all views, merged."""

from __future__ import annotations

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from backbones.upstream import required

# It is overridden.
required('mmdet.models.test_time_augs.DetTTAModel._merge_single_sample')
_FLIP_DIMS = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` for models that also predict masks.

    The instances of all views are brought to the original image and suppressed class by class; each
    survivor keeps the mask of the view it comes from.
    """

    def test_step(self, data: dict) -> list[DetDataSample]:
        """``data``: ``inputs`` and ``data_samples``, each a list of views of lists of images."""
        # mmdet's cascade head unflips masks while it averages its three stages, and so would mix flipped
        # with unflipped ones. The flip is hidden from it; the merge below undoes it.
        for view in data['data_samples']:
            for sample in view:
                sample.set_metainfo({'tta_flip': sample.metainfo.get('flip', False), 'flip': False})
        return super().test_step(data)

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        views = [sample.pred_instances for sample in data_samples]
        metas = [{**s.metainfo, 'flip': s.metainfo['tta_flip']} for s in data_samples]
        boxes, scores = self.merge_aug_bboxes(
            [view.bboxes for view in views], [view.scores for view in views], metas
        )
        labels = torch.cat([view.labels for view in views])
        merged = data_samples[0]
        if not len(boxes):
            return merged
        detections, kept = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        kept = kept[: self.tta_cfg.max_per_img]
        instances = InstanceData(
            bboxes=boxes[kept], scores=detections[: len(kept), -1], labels=labels[kept]
        )
        if 'masks' in views[0]:
            masks = [_unflipped(view.masks, meta) for view, meta in zip(views, metas)]
            instances.masks = torch.cat(masks)[kept.to(masks[0].device)]
        merged.pred_instances = instances
        return merged


def _unflipped(masks: Tensor, meta: dict) -> Tensor:
    """``(N, H, W)`` masks of a view in the coordinates of the original image."""
    if not meta['flip']:
        return masks
    return masks.flip(_FLIP_DIMS[meta['flip_direction']])
