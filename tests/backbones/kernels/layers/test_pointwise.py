"""The C code computes what PyTorch does: with or without compiler and OpenMP, in whole vectors or not."""

import shutil

import pytest
import torch
from torch import nn

from backbones.kernels.layers import pointwise
from tests.support.close import require_close

C_MODULE = pointwise


SIZES = [(1, 1), (3, 5), (7, 16), (33, 40), (100, 384)]


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_gelu_and_its_squares(size, with_bias, way):
    torch.manual_seed(0)
    x = 3 * torch.randn(size)
    bias = torch.randn(size[1]) if with_bias else None
    expected = nn.functional.gelu(x.double() + bias if with_bias else x.double())
    squares, out = torch.ones(size[1]), torch.empty(size)
    assert pointwise.gelu(x, bias, out, squares) is out
    require_close(out, expected, 1e-6)
    require_close(squares, 1 + expected.square().sum(0), 1e-6)
    found = pointwise.gelu(x.clone(), bias, out.zero_())
    require_close(found, expected, 1e-6)
    pointwise.gelu(x, bias, x, squares.zero_())
    require_close([x, squares], [out, expected.square().sum(0)], 1e-6)


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('with_coefficient', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_back_through_gelu(size, with_coefficient, with_bias, way):
    torch.manual_seed(0)
    x, grad = 3 * torch.randn(size), torch.randn(size)
    coefficient = torch.randn(size[1]) if with_coefficient else None
    bias = torch.randn(size[1]) if with_bias else None
    exact = (x.double() + bias if with_bias else x.double()).requires_grad_()
    value = nn.functional.gelu(exact)
    grad_gelu = grad.double() + (value.detach() * coefficient if with_coefficient else 0)
    (expected,) = torch.autograd.grad(value, exact, grad_gelu)
    sums = torch.ones(size[1])
    found = pointwise.gelu_backward_(x, bias, grad, sums, coefficient)
    require_close([found, grad], [value, expected], 1e-6)
    require_close(sums, 1 + expected.sum(0), 1e-5)


def test_gelu_of_any_float(way):
    """Far tails, zeros, subnormal and broken numbers."""
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([0.0, -0.0, 1e-40, 1e30, -1e30])])
    exact = x.double().requires_grad_()
    value = nn.functional.gelu(exact)
    (slope,) = torch.autograd.grad(value.sum(), exact)
    grad = torch.ones(1, len(x))
    found = pointwise.gelu_backward_(x[None].clone(), None, grad, torch.zeros(len(x)))[0]
    torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=1e-6)
    found = pointwise.gelu(x[None], None, torch.empty(1, len(x)))[0]
    torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad[0].double(), slope, rtol=1e-6, atol=1e-6)
    grad = torch.ones(1, 1)
    broken = pointwise.gelu_backward_(torch.tensor([[float('nan')]]), None, grad, torch.zeros(1))
    assert broken.isnan().all()
    assert pointwise.gelu(torch.tensor([[float('nan')]]), None, broken.zero_()).isnan().all()
    assert grad.isnan().all()


@pytest.mark.parametrize('size', [(1, 3), (5, 16), (33, 40), (100, 96)])
def test_back_through_the_norm(size, way):
    torch.manual_seed(0)
    x, grad, weight = torch.randn(size) + 1, torch.randn(size), torch.randn(size[1])
    exact = [t.double().requires_grad_() for t in (x, weight, torch.zeros(size[1]))]
    y = nn.functional.layer_norm(exact[0], size[1:], *exact[1:], 1e-6)
    expected = torch.autograd.grad(y, exact, grad.double())
    _, *moments = torch.native_layer_norm(x, size[1:], weight, torch.zeros(size[1]), 1e-6)
    out, sums = torch.empty(size), [torch.zeros(size[1]), torch.zeros(size[1])]
    pointwise.layer_norm_backward(grad, x, moments, weight, out, sums)
    require_close([out, *sums], expected, 1e-5)


def test_the_same_bits_every_time(way):
    """With more threads than this machine may have, too."""
    torch.manual_seed(0)
    x, grad = torch.randn(1000, 40), torch.randn(1000, 40)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        results = []
        for _ in range(20):
            sums = torch.zeros(40)
            pointwise.gelu_backward_(x.clone(), None, grad.clone(), sums)
            results.append(sums)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize('compiler', ['false', 'no-such-compiler', ''])
def test_without_a_working_compiler(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CC', compiler)
    if not compiler:
        monkeypatch.setenv('PATH', str(tmp_path))
    pointwise.compiled.cache_clear()
    try:
        assert pointwise.compiled() is None
        assert not list(tmp_path.rglob('*.so'))
    finally:
        pointwise.compiled.cache_clear()


def test_compiled_once_for_all(monkeypatch, tmp_path):
    if pointwise.compiled() is None:
        pytest.skip('no C compiler here')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    for _ in range(2):
        pointwise.compiled.cache_clear()
        assert pointwise.compiled() is not None
        (library,) = tmp_path.rglob('*.so')
        first = library.stat().st_mtime_ns
    assert library.stat().st_mtime_ns == first
    pointwise.compiled.cache_clear()


def test_a_compiler_without_openmp(monkeypatch, tmp_path):
    if pointwise.compiled() is None:
        pytest.skip('no C compiler here')
    compiler = tmp_path / 'cc'
    compiler.write_text(
        '#!/bin/sh\nfor word; do [ "$word" = -fopenmp ] && exit 1; done\n'
        f'exec {shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")} "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CC', str(compiler))
    pointwise.compiled.cache_clear()
    try:
        x, squares = torch.randn(50, 20), torch.zeros(20)
        expected = nn.functional.gelu(x)
        pointwise.gelu(x, None, x, squares)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
        assert list(tmp_path.rglob('*.so'))
    finally:
        pointwise.compiled.cache_clear()
