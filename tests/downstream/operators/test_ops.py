"""mmcv's operators on torchvision against torchvision and plain Python, and how they are found."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torchvision
from mmcv.ops import RoIAlign, batched_nms, nms, nms_match, roi_align, sigmoid_focal_loss, soft_nms

from backbones.kernels.detection.soft_nms import GAUSSIAN, LINEAR, NAIVE
from downstream.operators import finder
from tests.support.suppression import iou, soft_nms_by_hand

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
DEVICES = ['cpu', pytest.param('cuda', marks=needs_cuda)]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def random_boxes(count: int, seed: int = 0, size: float = 100) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    extent = torch.rand(count, 2, generator=generator) * size / 2 + 1
    return torch.cat([corner, corner + extent], 1), torch.rand(count, generator=generator)


def reference_nms(boxes, scores, threshold, offset) -> list[int]:
    boxes, order, kept = boxes.tolist(), scores.argsort(descending=True).tolist(), []
    for i in order:
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_nms_equals_the_definition(device, offset, threshold):
    boxes, scores = random_boxes(200)
    dets, kept = nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert kept.tolist() == reference_nms(boxes, scores, threshold, offset)
    assert torch.equal(dets[:, :4].cpu(), boxes[kept.cpu()])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', FLOATS)
def test_nms_takes_every_type(device, dtype):
    boxes, scores = (part.to(device, dtype) for part in random_boxes(60))
    _, kept = nms(boxes, scores, 0.5)
    assert set(kept.tolist()) == set(
        torchvision.ops.nms(boxes.double(), scores.double(), 0.5).tolist()
    )


def test_batched_nms_of_many_boxes_keeps_classes_apart():
    boxes, scores = random_boxes(12_000, size=2000)
    labels = torch.arange(12_000) % 3
    _, kept = batched_nms(boxes, scores, labels, {'type': 'nms', 'iou_threshold': 0.5})
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert sorted(kept.tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_soft_nms_equals_the_definition(method, offset):
    boxes, scores = random_boxes(80, seed=1)
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    number = {'naive': NAIVE, 'linear': LINEAR, 'gaussian': GAUSSIAN}[method]
    expected = soft_nms_by_hand(boxes, scores, 0.3, 0.5, 0.05, number, offset)
    assert kept.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(dets[:, 4], torch.tensor([s for _, s in expected]))
    assert torch.equal(dets[:, :4], boxes[kept])
    assert 0 < len(kept) < 80


def test_nms_match_groups_boxes_by_the_best():
    boxes, scores = random_boxes(50, seed=2)
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4)
    members = [i for group in groups for i in group.tolist()]
    assert sorted(members) == list(range(50))
    assert any(len(group) > 1 for group in groups)
    for group in groups:
        best, *others = group.tolist()
        assert all(iou(boxes[best].tolist(), boxes[i].tolist()) >= 0.4 for i in others)
        assert all(scores[best] >= scores[i] for i in others)


def roi_inputs(dtype, device='cpu'):
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(2, 3, 20, 24, generator=generator, dtype=torch.float64)
    boxes, _ = random_boxes(12, size=60)
    rois = torch.cat([torch.arange(12)[:, None] % 2, boxes], 1)
    return feats.to(device, dtype).requires_grad_(), rois.to(device, dtype)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_equals_torchvision(device, dtype, sampling_ratio, aligned):
    feats, rois = roi_inputs(dtype, device)
    ours = roi_align(feats, rois, (5, 7), 0.25, sampling_ratio, 'avg', aligned)
    grad = torch.randn(ours.shape, dtype=dtype).to(device)
    (ours_grad,) = torch.autograd.grad(ours, feats, grad)
    theirs = torchvision.ops.roi_align(feats, rois, (5, 7), 0.25, sampling_ratio, aligned)
    (theirs_grad,) = torch.autograd.grad(theirs, feats, grad)
    # float32 is summed in another order on a CPU, and CUDA adds gradients up in none that is fixed
    exact = {'rtol': 0, 'atol': 0} if (device, dtype) == ('cpu', torch.float64) else {}
    torch.testing.assert_close(ours, theirs, **exact)
    torch.testing.assert_close(ours_grad, theirs_grad, **exact)


def test_roi_align_gradient_is_the_derivative():
    feats, rois = roi_inputs(torch.float64)
    feats = feats[:, :1, :8, :8].detach().requires_grad_()
    rois[:, 1:] /= 4
    layer = RoIAlign(3, 0.5, 2)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), feats)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_reduced_precision(device, dtype):
    feats, rois = roi_inputs(torch.float32, device)
    reduced = feats.detach().to(dtype).requires_grad_()
    ours = roi_align(reduced, rois, 5, 0.25)
    ours.float().sum().backward()
    assert ours.dtype == reduced.grad.dtype == dtype
    expected = torchvision.ops.roi_align(reduced.detach().float(), rois, 5, 0.25, -1, True)
    torch.testing.assert_close(ours, expected.to(dtype))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', FLOATS)
def test_focal_loss_equals_torchvision(device, dtype):
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    target = (torch.arange(20) % 5).to(device)  # 4 is background
    one_hot = torch.nn.functional.one_hot(target, 5)[:, :4].double()
    ours_in, theirs_in = (logits.detach().clone().requires_grad_() for _ in range(2))
    ours = sigmoid_focal_loss(ours_in, target, 2.0, 0.25, None, 'sum')
    theirs = torchvision.ops.sigmoid_focal_loss(theirs_in.double(), one_hot, 0.25, 2.0, 'sum')
    ours.backward()
    theirs.backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=tolerance, atol=tolerance)


def test_focal_loss_weighs_by_class():
    logits, target = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    plain = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    weighted = sigmoid_focal_loss(logits, target, 2.0, 0.25, torch.tensor([3.0, 5.0]), 'none')
    torch.testing.assert_close(weighted, plain * torch.tensor([[3.0], [5.0], [1.0]]))


@pytest.mark.parametrize('device', DEVICES)
def test_empty_inputs(device):
    none = torch.zeros(0, 4, device=device)
    assert nms(none, none[:, 0], 0.5)[1].numel() == 0
    assert soft_nms(none, none[:, 0])[1].numel() == 0
    assert nms_match(torch.zeros(0, 5, device=device), 0.5) == []
    feats = torch.randn(1, 2, 8, 8, device=device, requires_grad=True)
    out = roi_align(feats, torch.zeros(0, 5, device=device), 7, 1.0)
    assert out.shape == (0, 2, 7, 7)
    out.sum().backward()
    assert feats.grad.abs().sum() == 0
    empty = torch.zeros(0, 3, device=device)
    target = torch.zeros(0, dtype=torch.long, device=device)
    assert sigmoid_focal_loss(empty, target, 2.0, 0.25, None, 'sum') == 0


def test_max_pooling_and_other_operators_say_what_they_need():
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        roi_align(torch.randn(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max')
    from mmcv.ops import RoIPool

    with pytest.raises(NotImplementedError, match='roi_pool_forward.*compiled mmcv'):
        RoIPool(2)(torch.randn(1, 1, 4, 4), torch.zeros(1, 5))


def test_flops_and_traces_pass_through():
    from mmengine.analysis import FlopAnalyzer

    layer = RoIAlign(7, 0.5)
    rois = torch.tensor([[0, 1.0, 1.0, 9.0, 9.0]])
    feats = torch.randn(1, 2, 16, 16)
    traced = torch.jit.trace(lambda x: layer(x, rois), feats, check_trace=False)
    assert torch.equal(traced(feats), layer(feats, rois))
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), Pooled(rois), torch.nn.Conv2d(3, 5, 1))
    counted = FlopAnalyzer(model, feats).unsupported_ops_warnings(False).by_module()
    assert counted['0'] == 2 * 3 * 16 * 16
    assert counted['2'] == 3 * 5 * 7 * 7


class Pooled(torch.nn.Module):
    def __init__(self, rois):
        super().__init__()
        self.layer, self.rois = RoIAlign(7, 0.5), rois

    def forward(self, x):
        return self.layer(x, self.rois)


def python(code: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


FAKE = """
import importlib.util, sys, types
from importlib.machinery import ModuleSpec
class Compiled:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == 'mmcv._ext' else None
    def create_module(self, spec):
        module = types.ModuleType(spec.name); module.compiled = True; return module
    def exec_module(self, module): pass
sys.meta_path.insert(0, Compiled())
import downstream, mmcv._ext
print('compiled' in vars(mmcv._ext))
print(any(type(finder).__name__ == '_AttentionFinder' for finder in sys.meta_path))
"""


@pytest.mark.parametrize(
    ('switch', 'compiled'), [('auto', True), ('compiled', True), ('torchvision', False)]
)
def test_compiled_operators_win_unless_switched_off(switch, compiled):
    result = python(FAKE, **{finder.SWITCH: switch})
    assert result.stdout.split() == [str(compiled), str(not compiled)], result.stderr


@pytest.mark.parametrize(
    ('switch', 'message'),
    [('compiled', 'no compiled operators'), ('fast', 'auto, torchvision or compiled')],
)
def test_an_impossible_switch_is_an_error(switch, message):
    if switch == 'compiled' and find_spec('mmcv._ext').origin != finder.__file__:
        pytest.skip('this mmcv is compiled')
    result = python('import downstream', **{finder.SWITCH: switch})
    assert result.returncode
    assert message in result.stderr.splitlines()[-1]


def test_mmdet_imported_too_early_is_an_error():
    result = python('import mmdet.structures, downstream')
    assert 'put `import downstream` above' in result.stderr


SPAWNED = """
import json, downstream
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 2
    def __getitem__(self, i):
        import torch
        from mmcv.ops import nms
        return nms(torch.tensor([[0., 0., 2., 2.]]), torch.ones(1), 0.5)[1]
if __name__ == '__main__':
    loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context='spawn')
    print(json.dumps([batch.tolist() for batch in loader]))
"""


def test_spawned_workers_have_the_operators(tmp_path):
    script = tmp_path / 'spawned.py'
    script.write_text(SPAWNED)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [[[0]], [[0]]]
