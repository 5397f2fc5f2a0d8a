"""Merging of augmented views with masks."""

import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from downstream.detection import InstanceTTAModel


class Replay(nn.Module):
    """A model that has predicted already, and was told of no flip."""

    def test_step(self, data):
        assert not any(sample.metainfo['flip'] for sample in data['data_samples'])
        return data['data_samples']


def view(boxes, scores, masks, flip=None) -> DetDataSample:
    sample = DetDataSample(
        metainfo={'ori_shape': (20, 30), 'flip': bool(flip), 'flip_direction': flip}
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.zeros(len(scores), dtype=torch.long),
        masks=masks,
    )
    return sample


def mask(x1, y1, x2, y2) -> torch.Tensor:
    canvas = torch.zeros(1, 20, 30, dtype=torch.bool)
    canvas[:, y1:y2, x1:x2] = True
    return canvas


def merge(*views) -> InstanceData:
    tta_cfg = ConfigDict(nms={'type': 'nms', 'iou_threshold': 0.5}, max_per_img=10)
    model = InstanceTTAModel(module=Replay(), tta_cfg=tta_cfg)
    data = {'inputs': [[None]] * len(views), 'data_samples': [[view] for view in views]}
    return model.test_step(data)[0].pred_instances


def test_boxes_and_masks_of_a_flipped_view_come_back():
    # the same object at x 2..8; in the flipped view it lies at 22..28 and has the higher score
    plain = view([[2, 3, 8, 9]], [0.5], mask(2, 3, 8, 9))
    flipped = view([[22, 3, 28, 9]], [0.9], mask(22, 3, 28, 9), 'horizontal')
    merged = merge(plain, flipped)
    assert merged.bboxes.tolist() == [[2, 3, 8, 9]]
    assert merged.scores.tolist() == [torch.tensor(0.9).item()]
    assert torch.equal(merged.masks, mask(2, 3, 8, 9))


def test_an_object_that_one_view_alone_sees_stays():
    first = view([[2, 3, 8, 9]], [0.5], mask(2, 3, 8, 9))
    second = view([[15, 3, 20, 9]], [0.4], mask(15, 3, 20, 9))
    merged = merge(first, second)
    assert len(merged) == 2
    assert torch.equal(merged.masks[1:], mask(15, 3, 20, 9))


def test_views_without_any_object():
    none = torch.zeros(0, 20, 30, dtype=torch.bool)
    assert len(merge(view([], [], none), view([], [], none, 'horizontal'))) == 0
