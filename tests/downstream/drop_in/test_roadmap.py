"""Every step of the roadmap trains a step and predicts in the embedded detector and segmenter."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from backbones.roadmap.names import name_of
from backbones.roadmap.steps import STEPS
from downstream.drop_in import drop_in
from tests.conftest import EXAMPLES, ROOT, read_metrics, write_tiny_config

LAST = {'detection': 'epoch_1.pth', 'segmentation': 'iter_2.pth'}
# One of bottlenecks, one without any norm on its maps, one of LayerNorm; the others are slow tests.
QUICK = {('detection', 'stage-ratio'), ('detection', 'fewer-norms'), ('segmentation', 'layernorm')}


def pairs(quick: set) -> list:
    return [
        pytest.param(task, step, marks=() if (task, step) in quick else pytest.mark.slow)
        for task in LAST
        for step in STEPS
    ]


@pytest.mark.parametrize(('task', 'step'), pairs(QUICK))
def test_a_step_trains_and_is_tested(task, step, tool, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_tiny_config(task, shapes, tmp_path)
    words = ['--backbone', name_of(step, 'atto'), '--work-dir', 'run']
    trained = tool('train', config, *words)
    assert trained.code == 0, trained.err
    assert f'roadmap-{step}-atto (Roadmap)' in trained.out
    tested = tool('test', config, tmp_path / 'run' / LAST[task], *words)
    assert tested.code == 0, tested.err
    assert read_metrics(tmp_path / 'run')


@pytest.mark.parametrize('task', LAST)
@pytest.mark.parametrize('step', STEPS)
def test_heads_follow_from_every_step(task, step):
    """The channels of neck and heads are those of the maps: the features run through them."""
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    init_default_scope(cfg.default_scope)
    drop_in(cfg, f'roadmap-{step}', depths=(1, 1, 1, 1), width=8)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.randn(1, 3, 64, 64))
    if task == 'segmentation':
        assert model.decode_head(maps).shape == (1, 4, 16, 16)
    else:
        assert [m.shape[1] for m in maps] == [64] * 5
