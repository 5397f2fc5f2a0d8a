"""Ways to train that must not change what is learned: recomputed blocks, compiled, in half precision."""

import pytest
import torch
from torch import Tensor, nn

from backbones import set_fused
from backbones.convnext.visible import VisibleCells
from backbones.errors import ConfigError
from pretraining import FCMAE
from pretraining.train import PretrainOptions, pretraining_config
from tests.support.close import require_close

from .runs import final_state, run, write_config

ARCH = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))
MASK = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]]).bool()
VERSIONS = {'V1': 'ConvNeXt', 'V2': 'ConvNeXtV2'}


def model_of(version: str, **backbone) -> FCMAE:
    """With weights none of which is 0."""
    torch.manual_seed(0)
    model = FCMAE(dict(type=VERSIONS[version], arch=ARCH, **backbone), decoder_dim=12).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 96, dtype=dtype)


def learned(model: nn.Module, inputs: Tensor, loss=None) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one step and its gradients."""
    model.zero_grad()
    found = (loss or model.loss)(inputs, VisibleCells(MASK))
    found.backward()
    return found.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def require_same(found, expected, tolerance: float) -> None:
    require_close(found[0], expected[0], tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        require_close(found[1][name], gradient, tolerance)


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('version', VERSIONS)
def test_recomputed_blocks(version, fused):
    counts = {}

    def count(module, *_):
        counts[module] = counts.get(module, 0) + 1

    found = {}
    with set_fused(fused):
        for with_cp in (False, True):
            model = model_of(version, with_cp=with_cp)
            found[with_cp] = learned(model, images())
    require_same(found[True], found[False], 1e-14)
    for block in (blocks := [block for stage in model.encoder.stages for block in stage]):
        block.register_forward_pre_hook(count)  # recomputing stops before its end
    learned(model, images())
    assert [counts[block] for block in blocks] == [2] * 4


@pytest.mark.parametrize(
    ('version', 'with_cp'),
    [
        ('V2', True),
        pytest.param('V2', False, marks=pytest.mark.slow),
        pytest.param('V1', True, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_step(version, with_cp):
    """The compiler's passes without the code that it would write last; blocks may be recomputed in it."""
    model = model_of(version, with_cp=with_cp)
    expected = learned(model, images())
    torch._dynamo.reset()

    def step(inputs: Tensor) -> Tensor:
        loss = model.loss(inputs, VisibleCells(MASK))
        loss.backward()
        return loss.detach()

    model.zero_grad()
    loss = torch.compile(step, backend='aot_eager')(images())
    found = loss, {name: p.grad for name, p in model.named_parameters()}
    require_same(found, expected, 1e-12)


@pytest.mark.skipif(torch.cuda.is_available(), reason='for CUDA it writes other code')
def test_code_for_a_cpu_that_cannot_be_compiled_is_refused_first(tmp_path):
    config = str(write_config(tmp_path))
    for compiled in (True, {'mode': 'default'}):
        with pytest.raises(ConfigError, match='cannot write code for pre-training on a CPU'):
            pretraining_config(PretrainOptions(config, cfg_options={'compile': compiled}))
    for compiled in (False, {'backend': 'eager'}):
        pretraining_config(PretrainOptions(config, cfg_options={'compile': compiled}))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.06), (torch.float16, 0.008)])
@pytest.mark.parametrize('version', VERSIONS)
def test_half_precision_learns_nearly_the_same(version, dtype, tolerance):
    model = model_of(version).float()
    inputs = images(torch.float32)
    expected = learned(model, inputs)
    scale = 2.0**12 if dtype == torch.float16 else 1.0  # as the optimizer's wrapper does

    def scaled(*arguments) -> Tensor:
        with torch.autocast('cpu', dtype):
            return scale * model.loss(*arguments)

    loss, gradients = learned(model, inputs, scaled)
    assert loss.dtype == torch.float32
    require_close(loss / scale, expected[0], tolerance)
    for name, gradient in expected[1].items():
        error = (gradients[name] / scale - gradient).norm() / gradient.norm()
        assert error < tolerance, (name, float(error))


@pytest.mark.slow
@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_a_compiled_run_learns_the_same(amp, shapes, tmp_path):
    data, found = shapes / 'images' / 'training', []
    config = write_config(tmp_path)
    torch._dynamo.reset()
    for changes in ({}, {'compile': {'backend': 'aot_eager'}}):
        runner = run(config, data, tmp_path / f'run{len(found)}', amp=amp, cfg_options=changes)
        found.append(final_state(runner))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
