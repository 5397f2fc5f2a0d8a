"""Where PyTorch's compiler fails, a run ends with one line."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from backbones import ConfigError
from downstream.running.compiler import leave_uncompiled
from downstream.running.runner import SuiteRunner
from tests.conftest import write_tiny_config


def test_a_warm_up_from_zero_leaves_compiled_weights_finite():
    """The compiler's own Adam divides 0 by 0 where a rate and a gradient are 0."""
    torch._dynamo.reset()
    weight = torch.nn.Parameter(torch.ones(3))
    built = build_optim_wrapper(
        torch.nn.ParameterDict({'weight': weight}),
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.0)),
    )
    leave_uncompiled(built)

    @torch.compile(backend='aot_eager')
    def step() -> None:
        built.update_params((weight * torch.tensor([0.0, 1.0, 2.0])).sum())

    step()
    torch._dynamo.reset()
    assert torch.equal(weight.detach(), torch.ones(3))


def test_a_compiler_that_fails_is_one_line_with_advice(shapes, tmp_path):
    torch._dynamo.reset()

    @torch._dynamo.register_backend
    def without_instructions(graph, inputs):
        raise NotImplementedError('no such instruction')

    cfg = Config.fromfile(write_tiny_config('segmentation', shapes, tmp_path))
    cfg.train_dataloader.persistent_workers = cfg.val_dataloader.persistent_workers = False
    cfg.merge_from_dict(
        {'work_dir': str(tmp_path / 'run'), 'compile.backend': 'without_instructions'}
    )
    with pytest.raises(ConfigError) as caught:
        SuiteRunner.from_cfg(cfg).train()
    torch._dynamo.reset()
    words = str(caught.value)
    assert words.startswith(
        "compile: PyTorch's compiler stopped at this model: BackendCompilerFailed: "
    )
    assert 'NotImplementedError: no such instruction. Leave compile out, or' in words
    assert words.endswith('--cfg-options compile.backend=aot_eager.')
    assert '\n' not in words
