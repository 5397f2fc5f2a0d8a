"""A stage is a module that is called, and so is every block that differs from the model's own."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard

from backbones import ConvNeXt, ConvNeXtV2, set_fused
from backbones.convnext import Block, FusedBlock, Stage
from tests.support.close import require_close

MODES = ['train', 'frozen', 'no_grad', 'inference']


def model_of(cls=ConvNeXt) -> nn.Module:
    torch.manual_seed(0)
    model = cls(dict(depths=(2, 3, 2, 1), dims=(8, 16, 24, 32))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def image() -> torch.Tensor:
    return torch.randn(
        2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def outputs_of(model: nn.Module, mode: str) -> list[torch.Tensor]:
    if mode == 'frozen':
        model = model.requires_grad_(False)
    with torch.inference_mode(mode == 'inference'), torch.set_grad_enabled(mode == 'train'):
        return list(model(image()))


class Rectified(Block):
    """A user's own block."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class FusedRectified(FusedBlock):
    def forward(self, x):
        return torch.relu(super().forward(x))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kind', ['instance', Rectified, FusedRectified])
def test_an_overridden_forward_is_called(kind, mode):
    model = model_of()
    plain = model_of()  # the same, as blocks of plain modules
    block, reference = model.stages[1][1], plain.stages[1][1]
    if kind == 'instance':
        own = block.forward
        block.forward = lambda x: torch.relu(own(x))
    else:
        other = kind(16, 0.0, 1.0, False).double()
        other.load_state_dict(block.state_dict())
        model.stages[1][1] = other
    reference.register_forward_hook(lambda module, args, output: torch.relu(output))
    with set_fused(False):
        expected = outputs_of(plain, mode)
    require_close(outputs_of(model, mode), expected, 1e-12)
    x = torch.randn(1, 16, 5, 5, dtype=torch.float64)
    with torch.no_grad():  # a block on its own
        assert model.stages[1][1](x).min() == 0


@pytest.mark.parametrize('mode', MODES)
def test_a_replaced_block_is_called(mode):
    model, expected = model_of(), model_of()
    model.stages[0][1] = nn.Identity()
    model.stages[1][0] = nn.Conv2d(16, 16, 1).double()
    expected.load_state_dict(model.state_dict(), strict=False)
    expected.stages[0] = nn.Sequential(expected.stages[0][0])
    expected.stages[1] = nn.Sequential(model.stages[1][0], *expected.stages[1][1:])
    with set_fused(False):
        maps = outputs_of(expected, mode)
    require_close(outputs_of(model, mode), maps, 1e-12)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
def test_hooks_of_a_stage_are_called(cls, mode):
    model, inputs, outputs = model_of(cls), [], []
    with set_fused(False):
        expected = outputs_of(model, mode)
    for stage in model.stages:
        stage.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        stage.register_forward_hook(lambda module, args, output: outputs.append(output))
    before = []
    for downsample in model.downsample_layers:
        downsample.register_forward_hook(lambda m, args, output: before.append(output.clone()))
    found = outputs_of(model, mode)
    require_close(found, expected, 1e-12)
    assert len(outputs) == 4
    # Nothing that a hook stored is overwritten later.
    require_close(inputs, before, 0)
    with torch.no_grad():
        for i in (0, 3):
            require_close(getattr(model, f'norm{i}')(outputs[i]), found[i], 1e-12)


@pytest.mark.parametrize('mode', MODES)
def test_what_a_block_stores_is_not_overwritten(mode):
    """A hook on a module that returns its input."""
    model, stored = model_of(), []
    model.stages[1][1] = nn.Identity()
    model.stages[1][1].register_forward_hook(lambda m, args, y: stored.append((y, y.clone())))
    outputs_of(model, mode)
    ((output, copied),) = stored
    assert torch.equal(output, copied)


@pytest.mark.parametrize('grad', [False, True])
def test_a_stage_leaves_its_input_alone(grad):
    model = model_of()
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        model.stages[1](x)
    assert torch.equal(x, before)


class Graphs:
    """A backend of torch.compile that counts what it compiles and runs it eagerly."""

    def __init__(self):
        self.calls = 0

    def __call__(self, graph, inputs):
        def run(*args):
            self.calls += 1
            return graph(*args)

        return run


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('what', ['stage', 'block', 'wrapper'])
def test_a_compiled_stage_or_block_runs_compiled(what, mode):
    model, backend = model_of(), Graphs()
    expected = outputs_of(model, mode)
    if what == 'stage':
        model.stages[2].compile(backend=backend)
    elif what == 'block':
        model.stages[2][0].compile(backend=backend)
    else:
        model.stages[2] = torch.compile(model.stages[2], backend=backend)
    require_close(outputs_of(model, mode), expected, 1e-12)
    assert backend.calls == 1
    torch.compiler.reset()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('wrap', ['checkpoint_wrapper', 'Sequential'])
def test_wrapped_and_replaced_stages(wrap, mode):
    model = model_of(ConvNeXtV2)
    expected = outputs_of(model, mode)
    for i, stage in enumerate(model.stages):
        model.stages[i] = (
            checkpoint_wrapper(stage) if wrap == 'checkpoint_wrapper' else nn.Sequential(*stage)
        )
    require_close(outputs_of(model, mode), expected, 1e-12)


@pytest.mark.parametrize('unit', ['stage', 'block'])
def test_sharded_stages_and_blocks(unit):
    """FSDP2 gathers parameters in hooks of the modules that it was applied to."""
    model = model_of(ConvNeXtV2)
    x = image()
    maps = model(x)
    sum(y.square().mean() for y in maps).backward()
    expected = [p.grad for p in model.parameters()]
    sharded = copy.deepcopy(model)
    sharded.zero_grad()
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        for stage in sharded.stages:
            for module in [stage] if unit == 'stage' else stage:
                fully_shard(module)
        fully_shard(sharded)
        found = sharded(x)
        require_close(found, maps, 1e-12)
        sum(y.square().mean() for y in found).backward()
        require_close([p.grad.full_tensor() for p in sharded.parameters()], expected, 1e-11)
        with torch.no_grad():
            require_close(sharded(x), maps, 1e-12)
    finally:
        dist.destroy_process_group()


def test_with_cp_may_be_set_later():
    model = model_of()
    assert not model.with_cp
    model.with_cp = True
    assert all(stage.with_cp for stage in model.stages)
    assert model.with_cp


def test_names_are_the_official_ones():
    model = model_of()
    assert all(type(stage) is Stage for stage in model.stages)
    assert 'stages.1.2.pwconv1.weight' in model.state_dict()
