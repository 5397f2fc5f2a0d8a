"""mmcv's deformable attention computes with the suite's operator, on every device."""

import copy

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops import multi_scale_deform_attn as in_mmcv

from backbones.kernels.detection import deform_attention
from downstream.operators import deform_attention as module
from downstream.operators.ops import ms_deform_attn_backward, ms_deform_attn_forward

SHAPES = torch.tensor([[6, 8], [3, 4]])


@pytest.fixture
def layer() -> MultiScaleDeformableAttention:
    torch.manual_seed(0)
    made = MultiScaleDeformableAttention(16, 4, 2, 3, dropout=0.0, batch_first=True)
    torch.nn.init.normal_(made.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(made.attention_weights.weight)
    return made


def run(layer, batch=1, device='cpu', dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, 5, 16, generator=generator).to(device, dtype)
    value = torch.randn(batch, 60, 16, generator=generator).to(device, dtype)
    points = torch.rand(batch, 5, 2, 2, generator=generator).to(device)
    starts = torch.tensor([0, 48], device=device)
    return layer(
        query, value=value, reference_points=points,
        spatial_shapes=SHAPES.to(device), level_start_index=starts,
    )  # fmt: skip


def test_mmcvs_layer_uses_it(layer, monkeypatch):
    calls = []
    original = deform_attention.forward

    def forward(*sources):
        calls.append(len(sources))
        return original(*sources)

    monkeypatch.setattr(deform_attention, 'forward', forward)
    run(layer)
    assert calls == [4]
    assert in_mmcv.MultiScaleDeformableAttnFunction is module.MultiScaleDeformableAttnFunction
    assert in_mmcv.__loader__.get_source(in_mmcv.__name__)  # for tracebacks


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_layer_in_reduced_precision_is_close(layer, dtype, batch):
    """Stock mmcv gives numbers up to 1e38 for one image."""
    expected = run(layer, batch)
    reduced = run(copy.deepcopy(layer).to(dtype), batch, dtype=dtype)
    assert (reduced.float() - expected).abs().max() < 0.15


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(layer, dtype):
    expected = run(layer)
    found = run(copy.deepcopy(layer).to('cuda', dtype), device='cuda', dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    assert (found.float().cpu() - expected).abs().max() < tolerance
    found.float().sum().backward()


def test_the_operators_of_the_extension_are_the_same():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 60, 4, 3, generator=generator, requires_grad=True)
    locations = torch.rand(2, 5, 4, 2, 3, 2, generator=generator).requires_grad_()
    weights = torch.rand(2, 5, 4, 2, 3, generator=generator).requires_grad_()
    out = module.multi_scale_deformable_attn(value, SHAPES, locations, weights)
    starts, sources = torch.tensor([0, 48]), (value, locations, weights)
    middle = (value, SHAPES, starts, locations, weights)
    assert torch.equal(ms_deform_attn_forward(*middle, im2col_step=64), out)
    grad = torch.randn(out.shape, generator=generator)
    into = [torch.zeros_like(tensor) for tensor in sources]
    ms_deform_attn_backward(*middle, grad, *into, im2col_step=64)
    for own, expected in zip(into, torch.autograd.grad(out, sources, grad)):
        assert torch.equal(own, expected)
