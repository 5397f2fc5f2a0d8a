"""Soft-NMS in C and in PyTorch against plain Python in float64."""

import pytest
import torch

import backbones.kernels.detection.soft_nms
from backbones.kernels.detection.soft_nms import GAUSSIAN, LINEAR, NAIVE, soft_nms
from tests.support.suppression import soft_nms_by_hand

C_MODULE = backbones.kernels.detection.soft_nms


def some_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of which many overlap, some twice, some empty; scores, some of them equal."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 100
    sides = torch.rand(count, 2, generator=generator) * 60
    sides[::9] = 0
    boxes = torch.cat([corners, corners + sides], 1)
    boxes[1::8] = boxes[::8][: len(boxes[1::8])]
    scores = torch.rand(count, generator=generator)
    scores[2::5] = scores[2:3]
    return boxes, scores


@pytest.mark.parametrize('method', [NAIVE, LINEAR, GAUSSIAN])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [1, 2, 150])
def test_like_plain_python(method, offset, count, way):
    boxes, scores = some_boxes(count)
    options = (0.3, 0.5, 0.05, method, offset)
    kept, lowered = soft_nms(boxes, scores.clone(), *options)
    expected = soft_nms_by_hand(boxes, scores, *options)
    assert kept.tolist() == [index for index, _ in expected]
    found = torch.tensor([score for _, score in expected], dtype=torch.float64)
    torch.testing.assert_close(lowered, found, rtol=1e-13, atol=0)
    if count == 150:
        assert 5 < len(kept) < 150


def test_inputs_stay_and_none_is_none(way):
    boxes, scores = some_boxes(40)
    copies = boxes.clone(), scores.clone()
    soft_nms(boxes, scores, 0.3, 0.5, 0.05, GAUSSIAN)
    assert torch.equal(boxes, copies[0])
    assert torch.equal(scores, copies[1])
    kept, lowered = soft_nms(boxes[:0], scores[:0], 0.3, 0.5, 0.05, GAUSSIAN)
    assert kept.shape == lowered.shape == (0,)
    # every second column of a larger tensor
    wide = torch.cat([boxes, boxes], 1)[:, ::2]
    kept, _ = soft_nms(wide, scores, 0.3, 0.5, 0.05, GAUSSIAN)
    assert torch.equal(kept, soft_nms(wide.clone(), scores, 0.3, 0.5, 0.05, GAUSSIAN)[0])
