"""Merging of the views of an image under test-time augmentation."""

from __future__ import annotations

import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample


@MODELS.register_module()
class MeanScoresTTAModel(BaseTTAModel):
    """Averages the scores of the views as they are.

    mmseg's ``SegTTAModel`` takes a softmax of them first. Those of a Mask2Former are sums of products of
    probabilities, which its authors average without.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """A sample for each image out of those of its views, whose scores are ``(classes, H, W)``."""
        return [self._merge(views) for views in data_samples_list]

    @staticmethod
    def _merge(views: list[SegDataSample]) -> SegDataSample:
        merged = views[0]
        scores = torch.stack([view.seg_logits.data for view in views]).mean(dim=0)
        merged.seg_logits = PixelData(data=scores)
        merged.pred_sem_seg = PixelData(data=scores.argmax(dim=0, keepdim=True))
        return merged
