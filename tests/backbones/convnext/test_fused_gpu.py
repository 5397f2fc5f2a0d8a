"""The fused blocks compute what the modules say, on CUDA or in Triton's interpreter."""

import os
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch
from torch import nn

from backbones import ConvNeXt, ConvNeXtV2
from backbones.convnext import fused_cpu as fast_cpu
from backbones.convnext import fused_gpu as fast_gpu
from backbones.convnext.block import Block
from backbones.convnext.fused_conditions import is_plain
from backbones.kernels.eager import is_unwatched

pytest.importorskip('triton')

from backbones.kernels import triton_pointwise as gpu_kernels

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
HALVES = [torch.float16, torch.bfloat16]
KINDS = {'V1': (1.0, False), 'V1 without layer scale': (0.0, False), 'V2': (0.0, True)}


def block_of(kind: str, dim=40, rate=0.0) -> Block:
    torch.manual_seed(0)
    scale, use_grn = KINDS[kind]
    block = Block(dim, rate, scale, use_grn).to(DEVICE)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return block


def results(block: Block, x: torch.Tensor, compute, half=None) -> list[torch.Tensor]:
    """Output, and gradients of input and parameters."""
    x = x.detach().clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(1)  # of drop path
    with torch.autocast(DEVICE.type, dtype=half or torch.bfloat16, enabled=half is not None):
        y = compute(x)
    towards = torch.linspace(0, 99, y.numel()).sin().view_as(y).to(y)
    y.backward(towards)
    return [y.detach(), x.grad, *(p.grad.clone() for p in block.parameters())]


def away(found: list, expected: list) -> list[float]:
    assert [a.shape for a in found] == [b.shape for b in expected]
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected)]
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('shape', [(1, 40, 7, 5), (3, 40, 20, 30)])
def test_in_float32(kind, rate, shape):
    block, x = block_of(kind, rate=rate), torch.randn(shape, device=DEVICE)
    found = results(block, x, lambda x: fast_gpu.run(block, x))
    torch.manual_seed(1)
    expected = results(block.double(), x.double(), block)
    if rate:  # masks are drawn in other dtypes, but of the same numbers
        found_dropped = (found[0] == x).flatten(1).all(1)
        assert torch.equal(found_dropped, (expected[0] == x).flatten(1).all(1))
    assert max(away(found, expected)) < 2e-5


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('x_dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_under_autocast(kind, half, x_dtype):
    """The same dtypes, and no further from the truth than the modules."""
    if x_dtype not in (torch.float32, half):
        pytest.skip('no map has that dtype there')
    block = block_of(kind)
    x = torch.randn(2, 40, 12, 9, device=DEVICE).to(x_dtype)
    found = results(block, x, lambda x: fast_gpu.run(block, x), half)
    plain = results(block, x, block, half)
    assert [t.dtype for t in found] == [t.dtype for t in plain]
    exact = results(block.double(), x.double(), block)
    for ours, theirs in zip(away(found, exact), away(plain, exact)):
        assert ours < 1.5 * theirs + 2 * torch.finfo(half).eps


@pytest.mark.parametrize('dtype', HALVES)
def test_whole_in_half(dtype):
    block = block_of('V2').to(dtype)
    x = torch.randn(2, 40, 8, 8, device=DEVICE, dtype=dtype)
    with torch.inference_mode():
        found, plain = fast_gpu.run(block, x), block(x)
    exact = block.double()(x.double())
    assert found.dtype == dtype
    ours, theirs = away([found, plain], [exact, exact])
    assert ours < 1.5 * theirs + torch.finfo(dtype).eps


@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
def test_whole_models(cls, monkeypatch):
    """Frozen parts, recomputed blocks, and inference."""
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 2, 1), dims=(24, 40, 48, 64))
    model = cls(arch, frozen_stages=1, with_cp=True, drop_path_rate=0.2).to(DEVICE)
    x = torch.randn(2, 3, 64, 96, device=DEVICE)
    used = []

    def fits(block, x) -> bool:
        used.append(block)
        return is_unwatched(x) and is_plain(block)

    def run() -> list[torch.Tensor]:
        model.train().zero_grad()
        torch.manual_seed(1)
        outputs = list(model(x))
        sum(
            (y * torch.linspace(0, 99, y.numel()).sin().view_as(y).to(y)).sum() for y in outputs
        ).backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            outputs += model.eval()(x)
        return [y.detach() for y in outputs] + grads

    with mock.patch.object(fast_cpu, 'fits', return_value=False):
        monkeypatch.setattr(fast_gpu, 'fits', lambda block, x: False)
        expected = run()
        monkeypatch.setattr(fast_gpu, 'fits', fits)
        found = run()
    assert len(used) >= 2 * sum(model.arch.depths)
    assert max(away(found, expected)) < 1e-4


SHAPES = [(1, 3, 40), (2, 37, 130), (3, 700, 24)]


@pytest.mark.parametrize(('images', 'size', 'columns'), SHAPES)
@pytest.mark.parametrize('dtype', [torch.float32, *HALVES])
def test_each_kernel(images, size, columns, dtype):
    torch.manual_seed(0)
    rows = images * size
    error = 3 * max(torch.finfo(dtype).eps, 1e-6)

    def some(*shape, dtype=dtype) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE).to(dtype)

    x, grad = some(rows, columns), some(rows, columns)
    weight, bias = some(columns, dtype=torch.float32), some(columns, dtype=torch.float32)
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = nn.functional.layer_norm(exact[0], (columns,), *exact[1:], 1e-6)
    expected = torch.autograd.grad(y, exact, grad.double())
    assert away([gpu_kernels.norm(x, weight, bias, 1e-6)], [y])[0] < error
    assert max(away(list(gpu_kernels.norm_back(grad, x, weight, 1e-6)), list(expected))) < error

    value, squares = gpu_kernels.gelu(x, images)
    exact = x.double().requires_grad_()
    y = nn.functional.gelu(exact)
    by_image = y.square().view(images, size, columns).sum(1)
    assert max(away([value, squares], [y, by_image])) < error
    for pull in (None, some(images, columns, dtype=torch.float32)):
        towards = grad.double().view(images, size, columns)
        if pull is not None:
            towards = towards + y.detach().view(images, size, columns) * pull.double()[:, None]
        (expected,) = torch.autograd.grad(y, exact, towards.view_as(y), retain_graph=True)
        back = grad.clone()
        sums, value = gpu_kernels.gelu_back_(x, back, images, pull, value=pull is None)
        assert max(away([back, sums], [expected, expected.sum(0)])) < error
        assert (value is None) if pull is not None else away([value], [y])[0] < error

    factor, shift = (some(images, columns, dtype=torch.float32) for _ in range(2))
    stream = some(rows, columns, dtype=torch.float32)
    branch = grad.double().view(images, size, columns)
    for f, s in ((factor, shift), (factor, None), (None, shift), (None, None)):
        y = stream.double().view(images, size, columns) + branch * (1 if f is None else f[:, None])
        y = (y + (0 if s is None else s[:, None])).view(rows, columns)
        for out_dtype in {dtype, torch.float32}:
            found = gpu_kernels.add_branch(stream, grad, images, out_dtype, f, s)
            assert found.dtype == out_dtype
            assert away([found], [y])[0] < error
    towards = stream.double().view(images, size, columns)
    for f, b in ((factor, grad), (factor, None), (None, None)):
        expected = [
            (towards * (1 if f is None else f[:, None])).view(rows, columns),
            (towards * branch).sum(1) if b is not None else torch.zeros_like(factor),
            towards.sum(1),
        ]
        found = gpu_kernels.add_branch_back(stream, b, images, dtype, f)
        assert max(away(list(found), expected)) < error


def test_tried_before_they_are_used(monkeypatch, caplog):
    for dtype in (torch.float32, *HALVES):
        assert fast_gpu._tried(DEVICE, dtype) == ''
    state = torch.get_rng_state()
    fast_gpu._tried(DEVICE, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    with monkeypatch.context() as broken:
        broken.setattr(gpu_kernels, 'norm', lambda x, *_: torch.zeros_like(x))
        assert 'results differ by' in fast_gpu._tried(DEVICE, torch.float32)
        broken.setattr(gpu_kernels, 'norm', lambda x, *_: torch.full_like(x, torch.nan))
        assert 'results differ by nan' in fast_gpu._tried(DEVICE, torch.float32)
        broken.setattr(gpu_kernels, 'norm', mock.Mock(side_effect=RuntimeError('no ptxas')))
        fast_gpu.works.cache_clear()
        assert not fast_gpu.works(DEVICE, torch.float32)
    assert not fast_gpu.works(DEVICE, torch.float32)
    fast_gpu.works.cache_clear()
    assert fast_gpu.works(DEVICE, torch.float32)
    monkeypatch.setattr(fast_gpu.importlib.util, 'find_spec', lambda name: None)
    fast_gpu.works.cache_clear()
    assert not fast_gpu.works(DEVICE, torch.float32)
    fast_gpu.works.cache_clear()


def test_only_on_cuda():
    block = block_of('V1')
    x = torch.randn(1, 40, 8, 8, device=DEVICE)
    assert fast_gpu.fits(block, x) == (DEVICE.type == 'cuda')
    assert not fast_gpu.fits(block, x.double())


_COMPILE = """
import re, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from backbones.kernels import triton_pointwise as gpu_kernels as kernels

flags = dict(SCALES=True, SHIFTS=True, COMPARES=True, PULLS=True, KEEPS=True, **kernels._SHAPE)
for capability in (80, 90):
    for dtype in ('bf16', 'fp16', 'fp32'):
        for columns in (96, 2816) if capability == 90 else (384,):
            for name in ('norm', 'norm_back', 'gelu', 'gelu_back', 'add', 'add_back'):
                kernel = getattr(kernels, f'_{name}_kernel')
                constants = flags | (kernels._shape_of_norm(columns) if 'norm' in name else {})
                types = dict.fromkeys(['weight', 'bias', 'pull', 'factor', 'shift', 'sums'], '*fp32')
                types |= dict(rows='i32', columns='i32', eps='fp32')
                names = kernel.arg_names
                signature = {n: 'constexpr' if n.isupper() else types.get(n, '*' + dtype) for n in names}
                # as a call has it whose pointers and sizes are multiples of 16
                even = {(i,): [['tt.divisibility', 16]] for i, n in enumerate(names)
                        if signature[n][0] == '*' or n == 'columns'}
                fixed = {n: constants[n] for n in names if n.isupper()}
                source = ASTSource(kernel, signature, fixed, even)
                options = {'num_warps': constants.get('num_warps', 4)}
                made = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
                wide = len(re.findall(r'ld[.]global[.][^ ]*v[248]', made.asm['ptx']))
                print(capability, dtype, columns, name, len(made.asm['cubin']), wide)
"""


def test_they_compile_for_gpus(tmp_path):
    """To machine code for an A100 and an H100, reading several values at a time; no GPU is needed."""
    if sys.platform != 'linux':
        pytest.skip('Triton compiles on Linux')
    environment = os.environ | {'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', _COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if re.match(r'(80|90) ', line)]
    assert len(lines) == (1 + 2) * 3 * 6
    for line in lines:
        size, wide = map(int, line.split()[-2:])
        assert size > 1000
        assert wide > 0, line
