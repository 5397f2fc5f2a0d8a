"""Suppression in exported graphs keeps what plain Python keeps, in its order, of any number of boxes."""

import importlib.util

import pytest
import torch
from mmcv.ops import batched_nms
from torch import nn

from downstream.exporting.graph.boxes import Suppression
from downstream.exporting.trace import quiet_tracer
from tests.support.suppression import iou

THRESHOLD = 0.5
LIMIT = 12
# None; fewer than those that are compared first; more than these.
COUNTS = [0, 1, 30, 200]


def boxes_of(count: int, spread: float, seed: int = 0):
    """Boxes around one place, which overlap where the spread is small; scores, some equal; groups."""
    generator = torch.Generator().manual_seed(seed)
    corner = 50 + spread * torch.rand(count, 2, generator=generator)
    size = 20 + 10 * torch.rand(count, 2, generator=generator)
    scores = torch.randint(1, 4 * count + 2, (count,), generator=generator) / (4 * count + 2)
    groups = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corner, corner + size], 1), scores, groups


def kept_by_hand(boxes, scores, groups, limit) -> list[int]:
    """The best box, the best of those that it does not overlap, and so on; of equal ones the first."""
    boxes, groups = boxes.double().tolist(), groups.tolist()
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        rivals = (other for other in kept if groups[other] == groups[index])
        if all(not iou(boxes[other], boxes[index]) > THRESHOLD for other in rivals):
            kept.append(index)
    return kept[:limit]


@pytest.mark.parametrize('count', COUNTS)
@pytest.mark.parametrize('spread', [1, 20, 400])
@pytest.mark.parametrize('head', [None, 40])
def test_the_same_boxes_in_the_same_order(count, spread, head):
    """With a spread of 1, or 20, the best 40 boxes leave fewer than the limit."""
    found = boxes_of(count, spread)
    for separates in (True, False):
        boxes, scores, groups = found
        groups = groups if separates else torch.zeros_like(groups)
        kept = Suppression(THRESHOLD, separates, LIMIT, head)(boxes, scores, found[2])
        assert kept.tolist() == kept_by_hand(boxes, scores, groups, LIMIT)
    options = dict(type='nms', iou_threshold=THRESHOLD)
    by_mmcv = batched_nms(*found, options)[1][:LIMIT].tolist() if count else []
    assert Suppression(THRESHOLD, True, LIMIT, head)(*found).tolist() == by_mmcv


def test_the_others_are_compared_only_where_they_are_needed(monkeypatch):
    compared = []
    nms = torch.ops.torchvision.nms
    monkeypatch.setattr(
        'torchvision.ops.nms', lambda *args: compared.append(len(args[0])) or nms(*args)
    )
    suppress = Suppression(THRESHOLD, False, LIMIT, 40)
    suppress(*boxes_of(5000, 4000))
    assert max(compared) < 60
    compared.clear()
    suppress(*boxes_of(5000, 1))
    assert max(compared) > 4900


class _Graph(nn.Module):
    def forward(self, boxes, scores, groups):
        return Suppression(THRESHOLD, True, LIMIT, 40)(boxes, scores, groups)


def test_files_take_any_number_of_boxes(tmp_path):
    free = {0: torch.export.Dim.DYNAMIC}
    with quiet_tracer():
        program = torch.export.export(
            _Graph(), boxes_of(50, 20), dynamic_shapes=(free, free, free), strict=False
        )
    module = program.module()
    runs = [lambda *found: module(*found).tolist()]
    if all(map(importlib.util.find_spec, ('onnxscript', 'onnxruntime'))):
        runs.append(in_onnxruntime(program, tmp_path / 'suppression.onnx'))
    for count in (2, *COUNTS[2:]):
        for spread in (1, 400):
            found = boxes_of(count, spread)
            expected = kept_by_hand(*found, LIMIT)
            for run in runs:
                assert run(*found) == expected


def in_onnxruntime(program, path):
    import onnxruntime

    names = ['boxes', 'scores', 'groups']
    with quiet_tracer():
        torch.onnx.export(program, (), str(path), input_names=names, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda *found: session.run(None, dict(zip(names, (part.numpy() for part in found))))[
        0
    ].tolist()
