"""Where PyTorch's compiler fails, a run ends with one line."""

import pytest
import torch
from mmengine.config import Config

from backbones import ConfigError
from downstream.running.runner import SuiteRunner
from tests.conftest import write_tiny_config


def test_a_compiler_that_fails_is_one_line_with_advice(shapes, tmp_path):
    torch._dynamo.reset()

    @torch._dynamo.register_backend
    def without_instructions(graph, inputs):
        raise NotImplementedError('no such instruction')

    cfg = Config.fromfile(write_tiny_config('segmentation', shapes, tmp_path))
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
