"""Fused blocks for GPUs compute what their modules would, on CUDA or in Triton's interpreter."""

import ast
import contextlib
import copy
import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from backbones import ConvNeXt, ConvNeXtV2, set_fused
from backbones.convnext.block import Block
from backbones.convnext.fused import FusedBlock
from backbones.convnext.fused import gpu as fused_gpu
from tests.support import processes

pytest.importorskip('triton')

from triton.runtime import interpreter

from backbones.kernels.layers import triton_pointwise as kernels

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
HALVES = [torch.float16, torch.bfloat16]
ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 24))
KINDS = {'V1': (1.0, False), 'V1 without layer scale': (0.0, False), 'V2': (0.0, True)}


@contextlib.contextmanager
def one_process_group():
    """A process group of this process alone."""
    backend = 'nccl' if DEVICE.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _erf(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).double().erf().to(torch.float32).numpy()


def suit_interpreter(patch: pytest.MonkeyPatch, own_tiles: bool = False) -> None:
    """What the interpreter takes its time for: each operation on a tile, and each element of an erf.

    Unless the tiles are the kernels' ``own_tiles``, there are fewer: several spans of several tiles, with
    rows and columns that do not exist, as on a GPU.
    """
    if DEVICE.type == 'cpu':
        patch.setattr(interpreter, 'np_erf_fp32', _erf)
    if DEVICE.type == 'cpu' and not own_tiles:
        patch.setattr(kernels, '_SPAN', 128)
        patch.setattr(kernels, '_TILE_COLUMNS', 64)
        patch.setattr(kernels, '_TILE', {'SPAN': 128, 'ROWS': 64, 'COLUMNS': 64})


@pytest.fixture
def quick_interpreter(monkeypatch) -> None:
    """See :func:`suit_interpreter`."""
    suit_interpreter(monkeypatch)


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
    grad = torch.linspace(0, 99, y.numel()).sin().view_as(y).to(y)
    y.backward(grad)
    return [y.detach(), x.grad, *(p.grad.clone() for p in block.parameters())]


def away(found: list, expected: list) -> list[float]:
    assert [a.shape for a in found] == [b.shape for b in expected]
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected)]
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('shape', [(1, 40, 7, 5), (3, 40, 20, 30)])
@pytest.mark.usefixtures('quick_interpreter')
def test_in_float32(kind, rate, shape):
    block, x = block_of(kind, rate=rate), torch.randn(shape, device=DEVICE)
    found = results(block, x, lambda x: fused_gpu.run(block, x))
    torch.manual_seed(1)
    expected = results(block.double(), x.double(), block)
    if rate:  # masks are drawn in other dtypes, but of the same numbers
        found_dropped = (found[0] == x).flatten(1).all(1)
        assert torch.equal(found_dropped, (expected[0] == x).flatten(1).all(1))
    assert max(away(found, expected)) < 2e-5


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('x_dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.usefixtures('quick_interpreter')
def test_under_autocast(kind, half, x_dtype):
    """The same dtypes, and no further from the truth than the modules."""
    if x_dtype not in (torch.float32, half):
        pytest.skip('no map has that dtype there')
    block = block_of(kind)
    x = torch.randn(2, 40, 12, 9, device=DEVICE).to(x_dtype)
    found = results(block, x, lambda x: fused_gpu.run(block, x), half)
    plain = results(block, x, block, half)
    assert [t.dtype for t in found] == [t.dtype for t in plain]
    exact = results(block.double(), x.double(), block)
    for ours, theirs in zip(away(found, exact), away(plain, exact)):
        assert ours < 1.5 * theirs + 2 * torch.finfo(half).eps


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.usefixtures('quick_interpreter')
def test_whole_in_half(dtype):
    block = block_of('V2').to(dtype)
    x = torch.randn(2, 40, 8, 8, device=DEVICE, dtype=dtype)
    with torch.inference_mode():
        found, plain = fused_gpu.run(block, x), block(x)
    exact = block.double()(x.double())
    assert found.dtype == dtype
    ours, theirs = away([found, plain], [exact, exact])
    assert ours < 1.5 * theirs + torch.finfo(dtype).eps


def watch(patch: pytest.MonkeyPatch) -> list:
    """The real conditions but the device's, in the interpreter too; grows with every fused block."""
    calls, own = [], fused_gpu.run

    def noting(block, x):
        if isinstance(block, FusedBlock):  # not the trial's
            calls.append(block)
        return own(block, x)

    suit_interpreter(patch)
    patch.setattr(fused_gpu, '_is_on_gpu', lambda x: x.device.type == DEVICE.type)
    patch.setattr(fused_gpu, 'run', noting)
    fused_gpu.failure.cache_clear()
    return calls


@pytest.fixture
def used(monkeypatch) -> list:
    """See :func:`watch`."""
    return watch(monkeypatch)


def loss_of(outputs) -> torch.Tensor:
    return sum((y * torch.linspace(0, 99, y.numel()).sin().view_as(y).to(y)).sum() for y in outputs)


def steps_of_models(cls, half=None, **options) -> list[list[torch.Tensor]]:
    """Outputs, gradients and outputs without gradients, module by module and fused."""
    torch.manual_seed(0)
    model = cls(ARCH, drop_path_rate=0.2, **options).to(DEVICE)
    x = torch.randn(2, 3, 32, 64, device=DEVICE)

    def run() -> list[torch.Tensor]:
        model.train().zero_grad()
        torch.manual_seed(1)
        with torch.autocast(DEVICE.type, dtype=half or torch.bfloat16, enabled=half is not None):
            outputs = list(model(x))
            loss_of(outputs).backward()
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            with torch.no_grad():
                outputs += model.eval()(x)
        return [y.detach() for y in outputs] + grads

    with set_fused(False):
        expected = run()
    with set_fused('gpu'):
        return [run(), expected]


@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
@pytest.mark.parametrize('with_cp', [False, True])
def test_whole_models(cls, with_cp, used):
    """Frozen parts, recomputed blocks, and inference.

    With ``with_cp`` the kernels are first tried within a recomputed block, whose saved-tensor hooks must
    not reach the trial.
    """
    found, expected = steps_of_models(cls, frozen_stages=1, with_cp=with_cp)
    assert len(used) == 4 + 3 * with_cp + 4
    assert fused_gpu.failure(DEVICE, torch.float32) is None
    assert max(away(found, expected)) < 1e-4


@pytest.mark.parametrize('with_cp', [False, True])
def test_whole_models_under_autocast(with_cp, used):
    found, modules = steps_of_models(ConvNeXtV2, half=torch.bfloat16, with_cp=with_cp)
    assert len(used) == 4 + 4 * with_cp + 4
    assert max(away(found, modules)) < 0.2


def test_after_sharding(used):
    """FSDP2 replaces the classes of modules and their parameters, which are whole in a forward pass."""
    torch.manual_seed(0)
    model = ConvNeXtV2(ARCH).to(DEVICE)
    x = torch.randn(2, 3, 64, 64, device=DEVICE)
    with set_fused(False):
        loss_of(model(x)).backward()
    expected = [p.grad for p in model.parameters()]
    sharded = copy.deepcopy(model)
    sharded.zero_grad()
    with one_process_group():
        for stage in sharded.stages:
            for block in stage:
                fully_shard(block, reshard_after_forward=True)
        fully_shard(sharded)
        with set_fused('gpu'):
            loss_of(sharded(x)).backward()
        assert len(used) == 4
        found = [p.grad.full_tensor() for p in sharded.parameters()]
        assert max(away(found, expected)) < 1e-4


def as_ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def as_sharded(model: nn.Module) -> nn.Module:
    for block in model.blocks():
        fully_shard(block)
    return fully_shard(model)


def gradients_in_process(wrap, with_cp: bool, half: torch.dtype | None) -> None:
    """One of two processes: the averaged gradients are those of the modules."""
    dist.init_process_group('gloo')
    gradients = []
    with pytest.MonkeyPatch.context() as patch:
        calls = watch(patch)
        for switch in (False, 'gpu'):
            torch.manual_seed(0)
            model = ConvNeXtV2(ARCH, drop_path_rate=0.2, with_cp=with_cp).train()
            wrapped = wrap(model)
            torch.manual_seed(1 + dist.get_rank())
            x = torch.randn(1, 3, 32, 64)
            with (
                set_fused(switch),
                torch.autocast('cpu', dtype=half or torch.bfloat16, enabled=half is not None),
            ):
                loss_of(wrapped(x)).backward()
            own = [p.grad for p in model.parameters()]
            gradients.append([getattr(g, 'full_tensor', lambda g=g: g)() for g in own])
    assert len(calls) == 4 * (1 + with_cp), len(calls)
    expected, found = gradients
    worst = max(away(found, expected))
    assert worst < (0.2 if half else 1e-4), worst
    sums = [torch.zeros(1, dtype=torch.float64) for _ in range(2)]
    dist.all_gather(sums, sum(g.double().sum() for g in found).view(1))
    assert sums[0] == sums[1]  # averaged, though each process has its own image
    # The support of tests leaves the group as the commands do: destroying it may wait for ever.


every_way = [
    pytest.param(wrap, with_cp, half, marks=() if quick else pytest.mark.slow)
    for wrap in (as_ddp, as_sharded)
    for with_cp in (False, True)
    for half in (None, torch.bfloat16)
    for quick in [(wrap is as_sharded) == with_cp == (half is not None)]
]


@pytest.mark.skipif(DEVICE.type == 'cuda', reason='NCCL wants a GPU for each process')
@pytest.mark.parametrize(('wrap', 'with_cp', 'half'), every_way)
def test_in_two_processes(wrap, with_cp, half, tmp_path):
    """Real conditions, kernels interpreted: DDP and FSDP2, recomputed blocks, autocast."""
    arguments = [{'wrap': wrap, 'with_cp': with_cp, 'half': half}] * 2
    running = processes.start(gradients_in_process, tmp_path, arguments)
    processes.finish(running, tmp_path, seconds=400)  # the interpreter is slow beside other tests


SHAPES = [(1, 3, 40), (2, 37, 130), (3, 700, 24)]


@pytest.mark.parametrize(
    ('images', 'size', 'columns', 'dtype'),
    [
        # the interpreter takes long for many rows
        pytest.param(
            *shape, dtype, marks=[pytest.mark.slow] if shape[1] > 100 and dtype in HALVES else []
        )
        for shape in SHAPES
        for dtype in (torch.float32, *HALVES)
    ],
)
def test_each_kernel(images, size, columns, dtype, monkeypatch):
    suit_interpreter(monkeypatch, own_tiles=dtype == torch.float32)
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
    assert away([kernels.layer_norm(x, weight, bias, 1e-6)], [y])[0] < error
    assert (
        max(away(list(kernels.layer_norm_backward(grad, x, weight, 1e-6)), list(expected))) < error
    )

    value, squares = kernels.gelu(x, images)
    exact = x.double().requires_grad_()
    y = nn.functional.gelu(exact)
    by_image = y.square().view(images, size, columns).sum(1)
    assert max(away([value, squares], [y, by_image])) < error
    for coefficient in (None, some(images, columns, dtype=torch.float32)):
        towards = grad.double().view(images, size, columns)
        if coefficient is not None:
            towards = (
                towards + y.detach().view(images, size, columns) * coefficient.double()[:, None]
            )
        (expected,) = torch.autograd.grad(y, exact, towards.view_as(y), retain_graph=True)
        back = grad.clone()
        sums, value = kernels.gelu_backward_(
            x, back, images, coefficient, returns_gelu=coefficient is None
        )
        assert max(away([back, sums], [expected, expected.sum(0)])) < error
        assert (value is None) if coefficient is not None else away([value], [y])[0] < error

    factor, shift = (some(images, columns, dtype=torch.float32) for _ in range(2))
    stream = some(rows, columns, dtype=torch.float32)
    branch = grad.double().view(images, size, columns)
    for f, s in ((factor, shift), (factor, None), (None, shift), (None, None)):
        y = stream.double().view(images, size, columns) + branch * (1 if f is None else f[:, None])
        y = (y + (0 if s is None else s[:, None])).view(rows, columns)
        for out_dtype in {dtype, torch.float32}:
            found = kernels.add_branch(stream, grad, images, out_dtype, f, s)
            assert found.dtype == out_dtype
            assert away([found], [y])[0] < error
    towards = stream.double().view(images, size, columns)
    for f, b in ((factor, grad), (factor, None), (None, None)):
        expected = [
            (towards * (1 if f is None else f[:, None])).view(rows, columns),
            (towards * branch).sum(1) if b is not None else torch.zeros_like(factor),
            towards.sum(1),
        ]
        found = kernels.add_branch_backward(stream, b, images, dtype, f)
        assert max(away(list(found), expected)) < error


def test_compared_with_modules_before_use(monkeypatch):
    suit_interpreter(monkeypatch)
    for dtype in (torch.float32, *HALVES):
        assert fused_gpu._try(DEVICE, dtype) is None
    state = torch.get_rng_state()
    fused_gpu._try(DEVICE, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(kernels, 'layer_norm', lambda x, *_: torch.zeros_like(x))
    assert 'their error is' in fused_gpu._try(DEVICE, torch.float32)
    monkeypatch.setattr(kernels, 'layer_norm', lambda x, *_: torch.full_like(x, torch.nan))
    assert 'their error is nan' in fused_gpu._try(DEVICE, torch.float32)

    def fail(*_):
        raise RuntimeError('no ptxas')

    monkeypatch.setattr(kernels, 'layer_norm', fail)
    fused_gpu.failure.cache_clear()
    assert 'no ptxas' in fused_gpu.failure(DEVICE, torch.float32)
    monkeypatch.undo()
    suit_interpreter(monkeypatch)
    assert 'no ptxas' in fused_gpu.failure(DEVICE, torch.float32)  # not tried again
    monkeypatch.setattr(fused_gpu.importlib.util, 'find_spec', lambda name: None)
    fused_gpu.failure.cache_clear()
    assert fused_gpu.failure(DEVICE, torch.float32) == 'Triton is not installed'
    fused_gpu.failure.cache_clear()


def test_modules_run_where_kernels_fail(used, monkeypatch, caplog):
    monkeypatch.setattr(kernels, 'layer_norm', lambda x, *_: torch.zeros_like(x))
    found, expected = steps_of_models(ConvNeXt)
    assert max(away(found, expected)) == 0
    fused_gpu.failure.cache_clear()


def test_only_on_cuda_and_switched_on():
    block = block_of('V1')
    x = torch.randn(1, 40, 8, 8, device=DEVICE)
    assert not fused_gpu.can_run_fused(block, x)  # off by default
    with set_fused(True):
        assert fused_gpu.can_run_fused(block, x) == (DEVICE.type == 'cuda')
        assert not fused_gpu.can_run_fused(block, x.double())


def test_strided_parameters_are_left_to_the_modules(used):
    """The kernels read parameters as contiguous."""
    block, x = block_of('V1'), torch.randn(1, 40, 8, 8, device=DEVICE)
    with set_fused('gpu'):
        assert fused_gpu.can_run_fused(block, x)
        block.norm.weight = nn.Parameter(torch.randn(80, device=DEVICE)[::2])
        assert not fused_gpu.can_run_fused(block, x)


def test_every_launch_is_on_the_device_of_its_tensors():
    """Triton launches on the current device, whatever the tensors' is."""
    tree = ast.parse(inspect.getsource(kernels))

    def launches(node: ast.AST) -> list[int]:
        return [
            call.lineno
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript)
            if getattr(call.func.value, 'id', '').endswith('_kernel')
        ]

    guarded = [
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and [ast.unparse(i.context_expr).split('(')[0] for i in node.items]
        == ['torch.cuda.device_of']
        for line in launches(node)
    ]
    assert len(guarded) == 6
    assert sorted(guarded) == sorted(launches(tree))


_COMPILE = """
import re, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from backbones.kernels.layers import triton_pointwise as kernels

names = ('HAS_SCALE', 'HAS_SHIFT', 'HAS_BRANCH', 'HAS_COEFFICIENT', 'STORES_GELU')
flags = dict.fromkeys(names, True) | kernels._TILE
CASES = [words.split() for words in sys.argv[1:]]
for capability, dtype, columns in [(int(c), d, int(n)) for c, d, n in CASES]:
    for name in ('layer_norm', 'layer_norm_backward', 'gelu', 'gelu_backward',
                 'add_branch', 'add_branch_backward'):
        kernel = getattr(kernels, f'_{name}_kernel')
        constants = flags | (kernels._norm_tile(columns) if 'norm' in name else {})
        types = dict.fromkeys(
            ['weight', 'bias', 'coefficient', 'branch_scale', 'branch_shift', 'sums'], '*fp32')
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


ALL_CASES = [f'80 {dtype} 384' for dtype in ('bf16', 'fp16', 'fp32')]
ALL_CASES += [f'90 {d} {columns}' for d in ('bf16', 'fp16', 'fp32') for columns in (96, 2816)]


@pytest.mark.parametrize(
    'cases',
    [
        pytest.param(['80 fp32 384', '90 bf16 96', '90 fp16 2816'], id='some'),
        pytest.param(ALL_CASES, id='all', marks=pytest.mark.slow),
    ],
)
def test_they_compile_for_gpus(cases, tmp_path):
    """To machine code for an A100 and an H100, reading several values at a time; no GPU is needed."""
    if sys.platform != 'linux':
        pytest.skip('Triton compiles on Linux')
    environment = os.environ | {'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', _COMPILE, *cases],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if re.match(r'(80|90) ', line)]
    assert len(lines) == 6 * len(cases)
    for line in lines:
        size, wide = map(int, line.split()[-2:])
        assert size > 1000
        assert wide > 0, line
