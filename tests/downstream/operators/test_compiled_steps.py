"""Operators within compiled code: they run as they are, and their gradients arrive."""

import sys

import pytest
import torch

from downstream.operators import ops

from mmcv.ops import roi_align  # isort: skip  after downstream

pytestmark = pytest.mark.skipif(
    not isinstance(sys.modules['mmcv._ext'], ops._Operators), reason='mmcv is compiled'
)


def test_roi_align_in_a_compiled_function(monkeypatch):
    for operator in ops.OPERATORS:  # restored afterwards
        monkeypatch.setattr(sys.modules['mmcv._ext'], operator.__name__, operator)
    ops.hide_from_compiler()
    boxes = torch.tensor([[0.0, 1.0, 2.0, 9.0, 11.0], [0.0, 0.0, 0.0, 5.0, 4.0]])

    def pooled(maps):
        return (2 * roi_align(maps, boxes, 3, 0.5, 2, 'avg', True)).sin().sum()

    found = {}
    torch._dynamo.reset()
    for name, function in (
        ('plain', pooled),
        ('compiled', torch.compile(pooled, backend='aot_eager')),
    ):
        maps = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
        maps.requires_grad_()
        value = function(maps)
        value.backward()
        found[name] = value.detach(), maps.grad
    torch._dynamo.reset()
    torch.testing.assert_close(found['compiled'], found['plain'])
