"""The switch for fused blocks, and what the log says about it."""

import importlib
import logging

import pytest
import torch

from backbones import ConfigError, ConvNeXt, set_fused
from backbones.convnext.fused import block as fused
from backbones.convnext.fused import cpu as fused_cpu
from backbones.convnext.fused import gpu as fused_gpu
from backbones.convnext.fused import switch as fused_switch
from backbones.kernels import eager
from backbones.kernels.layers import depthwise, linear, pointwise
from tests.support.close import require_close


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Neither a choice nor a log line from before."""
    monkeypatch.delenv(fused_switch.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(fused_switch, '_current', None)
    fused._log_path_once.cache_clear()
    yield
    fused._log_path_once.cache_clear()


@pytest.fixture
def used(monkeypatch) -> list:
    """Grows with every block that runs fused."""
    calls, own = [], fused_cpu.run
    monkeypatch.setattr(fused_cpu, 'run', lambda *args: calls.append(args) or own(*args))
    return calls


@pytest.fixture
def lines(monkeypatch) -> list:
    """Level and text of what is logged about the path."""
    found = []
    monkeypatch.setattr(fused, 'print_log', lambda text, logger, level: found.append((level, text)))
    return found


def model_and_image() -> tuple[ConvNeXt, torch.Tensor]:
    return ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))), torch.randn(1, 3, 32, 32)


@pytest.mark.parametrize(
    ('mode', 'devices'),
    [(True, {'cpu', 'gpu'}), (False, set()), ('cpu', {'cpu'}), ('gpu', {'gpu'})],
)
def test_function_and_environment_mean_the_same(mode, devices, monkeypatch):
    set_fused(mode)
    assert fused_switch.fused_switch().devices == devices
    monkeypatch.setattr(fused_switch, '_current', None)
    monkeypatch.setenv('CONVNEXT_FUSED', {True: '1', False: '0'}.get(mode, mode))
    assert fused_switch.fused_switch().devices == devices


def test_cpu_alone_by_default():
    assert fused_switch.fused_switch().devices == {'cpu'}


def test_blocks_follow_the_switch(used):
    model, x = model_and_image()
    set_fused(False)
    expected = model(x)
    assert not used
    with set_fused('cpu'):
        require_close(model(x), expected, 1e-5)
        assert len(used) == 4
    model(x)  # off again
    assert len(used) == 4


def test_the_former_choice_returns():
    with set_fused(False):
        with set_fused(True):
            pass
        assert not fused_switch.fused_switch().devices
    assert fused_switch.fused_switch().source == 'the default'


@pytest.mark.parametrize('mode', ['on', None, 2, 'CPU', ['cpu']])
def test_impossible_modes_are_refused(mode):
    with pytest.raises(ConfigError, match=r"give True, False, 'cpu' or 'gpu'"):
        set_fused(mode)
    assert fused_switch.fused_switch().devices == {'cpu'}


def test_an_impossible_environment_is_refused_when_a_model_is_made(monkeypatch):
    monkeypatch.setenv('CONVNEXT_FUSED', 'yes')
    with pytest.raises(ConfigError, match=r"CONVNEXT_FUSED='yes' .*: give 1, 0, cpu, gpu"):
        model_and_image()


def test_the_log_says_once_which_path_and_why(lines, monkeypatch):
    model, x = model_and_image()
    model(x)
    with torch.no_grad():
        model(x)
    ((level, text),) = lines
    assert level == logging.INFO
    assert text.startswith('ConvNeXt blocks in torch.float32 on cpu run fused: ')
    with set_fused(False):
        model(x)
        model(x)
    assert 'module by module: switched off by set_fused(False)' in lines[1][1]
    with torch.autocast('cpu', torch.bfloat16):
        model(x)
    assert 'module by module: the fused blocks are for float32 and float64' in lines[2][1]
    assert len(lines) == 3


def test_the_log_says_what_computes(monkeypatch):
    for module in (depthwise, pointwise):
        monkeypatch.setattr(module, 'compiled', object)
    assert fused_cpu.description() == 'compiled C code'
    monkeypatch.setattr(depthwise, 'compiled', lambda: None)
    assert "PyTorch's operators" in fused_cpu.description()


def test_on_a_gpu_the_log_says_how_to_switch_on():
    device = torch.device('cuda', 0)
    reason = fused_gpu.obstacle(device, torch.float16, True, fused_switch.fused_switch())
    assert 'off by default' in reason
    assert 'CONVNEXT_FUSED=1' in reason
    with set_fused('cpu'):
        reason = fused_gpu.obstacle(device, torch.float16, True, fused_switch.fused_switch())
        assert reason == "switched off by set_fused('cpu')"


PRIVATE = [
    'torch._C._len_torch_dispatch_stack',
    'torch._C._functorch.peek_interpreter_stack',
    'torch.autograd.forward_ad._current_level',
    'torch.nn.modules.module._global_forward_hooks',
]


@pytest.mark.parametrize('path', PRIVATE)
def test_without_a_private_name_modules_run(path, monkeypatch, used, lines):
    """As if the installed PyTorch had renamed it."""
    own = eager.upstream.optional
    with monkeypatch.context() as renamed:
        renamed.setattr(eager.upstream, 'optional', lambda p: None if p == path else own(p))
        importlib.reload(eager)  # functions that others imported see its new globals
    monkeypatch.setattr(fused, 'MISSING_NAMES', eager.MISSING_NAMES)
    try:
        model, x = model_and_image()
        model(x)
        with torch.no_grad():
            model(x)
    finally:
        importlib.reload(eager)
    assert not used
    ((level, text),) = lines
    assert level == logging.WARNING
    assert f'module by module: torch {torch.__version__} has no {path}' in text


@pytest.mark.parametrize('problem', ['missing', 'signature', 'result'])
def test_onednn_is_tried_before_use(problem, monkeypatch):
    def other_signature(x, weight):
        raise TypeError

    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')

    def right(x, weight, bias, activation, *_):
        y = torch.nn.functional.linear(x, weight, bias)
        return torch.nn.functional.gelu(y) if activation == 'gelu' else y

    def wrong(*args):
        return right(*args) + 0.1

    operators = {'missing': None, 'signature': other_signature, 'result': wrong}
    linear.has_onednn.cache_clear()
    try:
        monkeypatch.setattr(linear, '_linear_pointwise', right)
        assert linear.has_onednn()
        linear.has_onednn.cache_clear()
        monkeypatch.setattr(linear, '_linear_pointwise', operators[problem])
        assert not linear.has_onednn()
    finally:
        linear.has_onednn.cache_clear()
