"""Merging of views."""

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from downstream.segmentation import MeanScoresTTAModel


class Segmenter(nn.Module):
    def test_step(self, data):
        raise AssertionError('views are given')


def view(*scores: float) -> SegDataSample:
    """One pixel, whose classes have these scores."""
    data = torch.tensor(scores)[:, None, None]
    sample = SegDataSample(metainfo={'img_path': 'a.jpg'})
    sample.seg_logits = PixelData(data=data)
    sample.pred_sem_seg = PixelData(data=data.argmax(0, keepdim=True))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 1, 1, dtype=torch.long))
    return sample


def test_scores_are_averaged_as_they_are():
    """The first class has the larger mean, the second the larger mean of softmax."""
    views = [view(9.0, 0.0), view(0.0, 2.0), view(0.0, 2.0)]
    softmax = torch.stack([v.seg_logits.data.softmax(0) for v in views]).mean(0)
    assert softmax.flatten().argmax() == 1
    (merged,) = MeanScoresTTAModel(module=Segmenter()).merge_preds([views])
    assert torch.equal(merged.seg_logits.data.flatten(), torch.tensor([3.0, 4 / 3]))
    assert merged.pred_sem_seg.data.shape == (1, 1, 1)
    assert merged.pred_sem_seg.data.item() == 0
    assert merged.gt_sem_seg.data.shape == (1, 1, 1)
    assert merged.img_path == 'a.jpg'
