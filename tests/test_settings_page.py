"""Every setting of docs/settings.md builds, and changes what it says."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, init_default_scope

from downstream.running.options import overrides

from .conftest import ROOT

DETECTOR = 'configs/det/cascade-mask-rcnn_convnextv2-atto_fcmae_3x_coco.py'
SEGMENTER = 'configs/seg/upernet_convnextv2-atto_fcmae-in1k_160k_ade20k-512x512.py'
PAGE = (ROOT / 'docs' / 'settings.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def read(block: str, folder, base: str) -> Config:
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {str(ROOT / base)!r}\n{block}')
    return Config.fromfile(path)


def is_for_segmentation(block: str) -> bool:
    return 'decode_head' in block


@pytest.mark.parametrize('block', BLOCKS, ids=lambda text: ' '.join(text.split())[:50])
def test_a_setting_builds(block, tmp_path, monkeypatch):
    monkeypatch.setattr(overrides, 'is_installed', lambda name: True)
    base = SEGMENTER if is_for_segmentation(block) else DETECTOR
    cfg, former = read(block, tmp_path, base), Config.fromfile(ROOT / base)
    assert cfg.to_dict() != former.to_dict()
    init_default_scope(cfg.default_scope)
    overrides.check_values(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    for scheduler in cfg.param_scheduler:
        PARAM_SCHEDULERS.build(dict(scheduler), default_args={'optimizer': optimizer})
    base_hooks = former.default_hooks
    changed = [hook for name, hook in cfg.default_hooks.items() if base_hooks.get(name) != hook]
    for hook in [*changed, *cfg.get('custom_hooks', [])]:
        HOOKS.build(dict(hook))
    if is_for_segmentation(block):
        METRICS.build(cfg.val_evaluator)


def built(block: str, tmp_path):
    cfg = read(block, tmp_path, DETECTOR)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model)


def block_with(words: str) -> str:
    return next(block for block in BLOCKS if words in block)


def test_frozen_stages_do_not_learn(tmp_path):
    _, model = built(block_with('frozen_stages=2'), tmp_path)
    model.train()
    learns = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert not [n for n in learns if n.startswith(('downsample_layers.0', 'stages.0', 'stages.1'))]
    assert [n for n in learns if n.startswith('stages.2')]


def test_another_optimizer_replaces_the_recipes(tmp_path):
    cfg, model = built(block_with("type='SGD'"), tmp_path)
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper')).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults['momentum'] == 0.9


def test_without_layer_decay_all_learn_at_one_rate(tmp_path):
    cfg, model = built(block_with('DefaultOptimWrapperConstructor'), tmp_path)
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper')).optimizer
    assert {group['lr'] for group in optimizer.param_groups} == {cfg.optim_wrapper.optimizer.lr}


def test_options_of_the_page_are_those_of_the_tool():
    source = (ROOT / 'downstream' / 'commands' / 'line.py').read_text()
    for option in re.findall(r'^\| `(--[\w-]+)', PAGE, re.M):
        assert f"'{option}'" in source, option
