"""Fused blocks on a CPU compute what their modules would, and do not run where they could not."""

import contextlib
import copy
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import ConvNeXt, ConvNeXtV2, set_fused
from backbones.convnext.block import GRN
from backbones.convnext.fused import chunks
from backbones.convnext.fused import cpu as fused_cpu
from backbones.convnext.fused.grn import grn_backward, grn_scale
from backbones.kernels.layers import depthwise, linear, pointwise
from downstream.contract.saved_memory import saved_activation_bytes
from downstream.data.shapes import make_shapes
from tests.support.close import require_close

MODELS = {'V1': ConvNeXt, 'V2': ConvNeXtV2}
# Atto's widths, and one or two blocks in a stage.
SMALL = dict(depths=(1, 2, 2, 1), dims=(40, 80, 160, 320))


def model_of(version: str, arch=SMALL, dtype=torch.float64, **options) -> nn.Module:
    """With weights none of which is 0 or 1."""
    torch.manual_seed(0)
    model = MODELS[version](arch, **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def outputs_and_gradients(model: nn.Module, x: torch.Tensor) -> tuple[list, list]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(3)  # of drop path
    outputs = model(x)
    torch.manual_seed(4)
    sum((y * torch.randn(y.shape, dtype=torch.float64).to(y)).sum() for y in outputs).backward()
    return [y.detach() for y in outputs], [x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.fixture
def used(monkeypatch) -> list:
    """Grows with every block that runs fused."""
    calls = []
    for owner, name in ((fused_cpu, 'run'), (fused_cpu.InferenceSequence, 'run')):
        own = getattr(owner, name)

        def noting(*args, own=own):
            calls.append(args[-2])
            return own(*args)

        monkeypatch.setattr(owner, name, noting)
    return calls


@pytest.mark.parametrize('version', MODELS)
@pytest.mark.parametrize('arch', ['atto', 'femto', 'pico', 'nano', 'tiny', 'base'])
def test_every_width_in_float64_and_float32(version, arch, used):
    dims = MODELS[version].archs[arch].dims
    require_same_results(version, dict(depths=(1, 1, 1, 1), dims=dims), used)


@pytest.mark.slow
@pytest.mark.parametrize('version', MODELS)
@pytest.mark.parametrize('arch', ['atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base'])
def test_every_size_in_float64_and_float32(version, arch, used):
    require_same_results(version, arch, used)


def require_same_results(version: str, arch, used: list) -> None:
    x = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    model = model_of(version, arch)
    with set_fused(False):
        outputs, gradients = outputs_and_gradients(model, x)
    require_close(model.eval()(x), outputs, 1e-12)
    assert used
    found = outputs_and_gradients(model, x)
    require_close(found[0], outputs, 1e-12)
    require_close(found[1], gradients, 1e-11)
    with torch.no_grad():
        require_close(model(x), outputs, 1e-12)
    found = outputs_and_gradients(model.float(), x.float())
    require_close(found[0], outputs, 1e-5)
    require_close(found[1], gradients, 1e-5)


@pytest.mark.parametrize('version', MODELS)
@pytest.mark.parametrize('shape', [(1, 97, 131), (3, 64, 64), (2, 35, 300), (1, 32, 33)])
@pytest.mark.parametrize('chunk', [7, 1024])
def test_any_size_of_image_and_chunk(version, shape, chunk, monkeypatch):
    monkeypatch.setattr(chunks, '_CHUNK_PIXELS', chunk)
    model = model_of(version)
    x = torch.randn(shape[0], 3, *shape[1:], dtype=torch.float64)
    with set_fused(False):
        outputs, gradients = outputs_and_gradients(model, x)
    found = outputs_and_gradients(model, x)
    require_close(found[0], outputs, 1e-12)
    require_close(found[1], gradients, 1e-11)
    with torch.inference_mode():
        require_close(model(x), outputs, 1e-12)


@pytest.mark.parametrize('version', MODELS)
@pytest.mark.parametrize('rate', [0.3, 0.8, 1.0])
def test_drop_path_drops_the_same_samples(version, rate):
    model = model_of(version, drop_path_rate=rate)
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    with set_fused(False):
        outputs, gradients = outputs_and_gradients(model, x)
    found = outputs_and_gradients(model, x)
    require_close(found[0], outputs, 1e-12)
    require_close(found[1], gradients, 1e-11)
    torch.manual_seed(3)
    with torch.no_grad():  # also without gradients
        require_close(model(x), outputs, 1e-12)


@pytest.mark.parametrize('version', MODELS)
def test_without_layer_scale_and_with_dead_channels(version):
    model = model_of(version, layer_scale_init_value=0)
    with torch.no_grad():
        for stage in model.stages:
            stage[0].pwconv1.weight[:5] = 0
            stage[0].pwconv1.bias[:5] = 0  # GELU gives 0, and GRN's norm of it is 0
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with set_fused(False):
        outputs, gradients = outputs_and_gradients(model, x)
    if version == 'V2':
        # torch's gradient of the norm of zeros is 0 as well
        assert all(torch.isfinite(g).all() for g in gradients)
    found = outputs_and_gradients(model, x)
    require_close(found[0], outputs, 1e-12)
    require_close(found[1], gradients, 1e-11)


@pytest.mark.parametrize('version', MODELS)
def test_weights_may_change_in_any_way(version):
    model = model_of(version).eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    other = model_of(version)
    with torch.no_grad():
        before = model(x)
        for parameter in model.parameters():
            parameter.data.mul_(1.1)  # as averaging of weights does it: no version counter sees it
        with set_fused(False):
            expected = model(x)
        require_close(model(x), expected, 1e-12)
        assert not torch.allclose(before[0], expected[0])
        model.load_state_dict(other.state_dict())
        require_close(model(x), other.eval()(x), 0)
        require_close(copy.deepcopy(model)(x), other(x), 0)


def test_the_input_is_left_alone(used):
    model = model_of('V1').eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    original = x.clone()
    with torch.no_grad():
        model(x)
        block = model.stages[0][0]
        y = torch.randn(1, 40, 8, 8, dtype=torch.float64)
        for form in (torch.channels_last, torch.contiguous_format):
            given = y.clone(memory_format=torch.contiguous_format).contiguous(memory_format=form)
            block(given)
            assert torch.equal(given, y)
    assert torch.equal(x, original)
    assert used


@pytest.mark.parametrize('where', ['stages.1.0', 'downsample_layers.1', 'stages.1.1.norm'])
@pytest.mark.parametrize('grad', [False, True])
def test_hooks_are_called_with_the_modules_outputs(where, grad):
    model = model_of('V1').eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    seen = []
    model.get_submodule(where).register_forward_hook(lambda m, args, output: seen.append(output))
    with torch.set_grad_enabled(grad):
        with set_fused(False):
            model(x)
        model(x)
    assert len(seen) == 2
    require_close(seen[1:], seen[:1], 1e-12)  # after the run, too: nobody wrote over it


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_replaced_modules_of_a_block_run():
    model = model_of('V1').eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    block = model.stages[0][0]
    other = Doubled(40, 160, dtype=torch.float64)
    other.load_state_dict(block.pwconv1.state_dict())
    before = model(x)
    block.pwconv1 = other
    with set_fused(False):
        expected = model(x)
    require_close(model(x), expected, 1e-12)
    assert not torch.allclose(before[0], expected[0])
    nn.utils.parametrizations.weight_norm(model.stages[1][0].pwconv2)
    with set_fused(False):
        expected = model(x)
    require_close(model(x), expected, 1e-12)


def test_where_modules_run(used):
    model = model_of('V2', dtype=torch.float32).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(x)[0].dtype in (torch.float32, torch.bfloat16)
    model.bfloat16()(x.bfloat16())
    model.float()
    torch.jit.trace(model, x, check_trace=False)
    torch.func.vmap(lambda image: model(image)[0], randomness='same')(x[None])
    with FlopCounterMode(display=False):
        model(x)
    model.to('meta')(x.to('meta'))
    assert not used


def test_traced_exported_and_compiled_models_give_the_same():
    model = model_of('V2', dtype=torch.float32).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        require_close(torch.jit.trace(model, x)(x), expected, 1e-5)
        require_close(torch.export.export(model, (x,)).module()(x), expected, 1e-5)
        whole = torch.compile(model, backend='eager', fullgraph=True)
        require_close(whole(x), expected, 1e-5)


def test_forward_mode_and_vectorised_differentiation():
    model = model_of('V1').eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(lambda z: model(z)[3], (x,), (direction,))
    step = 1e-6
    with torch.no_grad():
        numeric = (model(x + step * direction)[3] - model(x - step * direction)[3]) / (2 * step)
    require_close([slope], [numeric], 1e-6)


def test_a_second_derivative_is_refused_clearly():
    model = model_of('V1')
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(model(x)[3].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()


@pytest.mark.parametrize('options', [{'frozen_stages': 2}, {'with_cp': True}])
def test_frozen_stages_and_recomputed_blocks(options):
    model = model_of('V2', **options, drop_path_rate=0.5).train()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def step() -> list:
        model.zero_grad()
        torch.manual_seed(3)
        sum(y.square().sum() for y in model(x)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with set_fused(False):
        expected = step()
    require_close(step(), expected, 1e-11)


def test_only_some_parameters_need_gradients():
    model = model_of('V1')
    for name, parameter in model.named_parameters():
        parameter.requires_grad_('gamma' in name)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    gammas = [p for p in model.parameters() if p.requires_grad]

    def step() -> list:
        return list(torch.autograd.grad(sum(y.square().sum() for y in model(x)), gammas))

    with set_fused(False):
        expected = step()
    require_close(step(), expected, 1e-11)


def test_several_threads_at_once():
    model = model_of('V2').eval()
    images = [torch.randn(1, 3, 64, 32 * (i + 1), dtype=torch.float64) for i in range(6)]
    with torch.no_grad():
        expected = [model(x) for x in images]
    found: dict = {}

    def run(index: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                found[index] = model(images[index])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, outputs in enumerate(expected):
        require_close(found[index], outputs, 1e-13)


@pytest.mark.parametrize(('version', 'share'), [('V1', 5), ('V2', 7)])
def test_a_block_saves_two_maps(version, share):
    """Input and convolution's output; the rest are stem, downsampling and norms."""
    model = model_of(version, 'tiny', torch.float32)
    x = torch.randn(1, 3, 128, 128)
    stages = zip((32, 16, 8, 4), model.arch.dims, model.arch.depths)
    maps = sum(size**2 * width * depth for size, width, depth in stages)
    fast = saved_activation_bytes(model, lambda: model(x))
    assert fast < 2.9 * 4 * maps
    with set_fused(False):
        assert saved_activation_bytes(model, lambda: model(x)) > 0.8 * share * fast


@pytest.mark.parametrize('version', MODELS)
@pytest.mark.parametrize('compiled', [False, True], ids=['torch', 'C'])
@pytest.mark.parametrize('onednn', [False, True], ids=['MKL', 'oneDNN'])
def test_with_and_without_compiler_and_onednn(version, compiled, onednn, monkeypatch):
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip('PyTorch has no oneDNN here')
    if not compiled:
        for module in (pointwise, depthwise):
            monkeypatch.setattr(module, 'compiled', lambda: None)
    monkeypatch.setattr(linear, 'has_onednn', lambda: onednn)
    monkeypatch.setattr(linear, '_MIN_CHANNELS', 1)
    monkeypatch.setattr(chunks, '_CHUNK_PIXELS', 100)
    model = model_of(version, drop_path_rate=0.2)
    x = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    with set_fused(False):
        expected, gradients = outputs_and_gradients(model.train(), x)
        without = model.eval()(x)
    model.float().train()
    found, found_gradients = outputs_and_gradients(model, x.float())
    require_close(found, expected, 1e-5)
    require_close(found_gradients, gradients, 1e-5)
    with torch.inference_mode():
        require_close(model.eval()(x.float()), without, 1e-5)


def losses_of_fifty_steps(root, plain: bool) -> list[float]:
    """A small segmenter on the embedded data, in float64."""
    torch.manual_seed(0)
    backbone = ConvNeXtV2(SMALL, drop_path_rate=0.2).double()
    head = nn.Conv2d(40, 5, 1).double()
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-3)
    images = sorted((root / 'images' / 'training').iterdir())
    losses = []
    for step in range(50):
        names = [images[(2 * step + i) % len(images)] for i in range(2)]
        x = torch.stack([torch.tensor(np.asarray(Image.open(n))[:96, :96] / 255) for n in names])
        masks = [
            np.asarray(Image.open(root / 'annotations' / 'training' / f'{n.stem}.png'))[:96, :96]
            for n in names
        ]
        target = torch.tensor(np.stack(masks)[:, ::4, ::4].astype('int64'))
        with set_fused(False) if plain else contextlib.nullcontext():
            maps = backbone(x.permute(0, 3, 1, 2))
        loss = nn.functional.cross_entropy(head(maps[0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_training_takes_the_same_course(tmp_path):
    make_shapes(tmp_path / 'shapes', training=8, validation=1)
    plain = losses_of_fifty_steps(tmp_path / 'shapes', plain=True)
    fast = losses_of_fifty_steps(tmp_path / 'shapes', plain=False)
    assert plain[-1] < 0.5 * plain[0]
    np.testing.assert_allclose(fast, plain, rtol=1e-9)


@pytest.mark.parametrize('dead', [0, 3])
def test_gradients_of_grn(dead):
    """Against autograd, also of channels that are 0 everywhere."""
    torch.manual_seed(0)
    module = GRN(20).double()
    torch.nn.init.normal_(module.gamma)
    x = torch.randn(2, 5, 7, 20, dtype=torch.float64)
    x[..., :dead] = 0
    x.requires_grad_()
    out = module(x)
    grad = torch.randn_like(out)
    out.backward(grad)
    with torch.no_grad():
        norms, gamma = x.square().sum((1, 2)).sqrt(), module.gamma.flatten()
        found = grn_backward(norms, gamma, dot=(grad * x).sum((1, 2)))
        scale = grn_scale(norms, gamma)
        grad_x = scale[:, None, None] * grad + found.coefficient[:, None, None] * x
    require_close([grad_x, found.gamma.sum(0)], [x.grad, module.gamma.grad.flatten()], 1e-13)
