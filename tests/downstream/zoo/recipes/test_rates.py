"""Learning rate and weight decay of every parameter of every row, by rules stated twice."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from downstream.quiet import without_log
from downstream.zoo import Row, complexity, find_row

from ..choice import first_of_each
from .expected_rates import expected_rates

CASCADE = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'


def wrong_rates(row: Row) -> dict[str, tuple]:
    """Trained parameters whose learning rate or weight decay is not the expected one."""
    cfg = row.cfg
    model = complexity.build_on_meta(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), without_log():
        wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    found = {
        id(parameter): (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    expected = expected_rates(cfg, model)
    names = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert set(names) == set(expected)
    return {
        name: (found.get(key), expected[name])
        for name, key in names.items()
        if found.get(key) != pytest.approx(expected[name], rel=1e-9, abs=0)
    }


@pytest.mark.parametrize('row', first_of_each('method', 'family', 'size'))
def test_rates_and_decays_of_a_row_are_the_official_ones(row):
    assert wrong_rates(row) == {}


def test_a_mistake_in_the_recipes_own_rule_shows(monkeypatch):
    from backbones.convnext import model

    right = model.convnext_layer_depth
    monkeypatch.setattr(
        model,
        'convnext_layer_depth',
        lambda name, blocks: (0, 8) if name == 'stages.1.0.gamma' else right(name, blocks),
    )
    assert set(wrong_rates(find_row(CASCADE))) == {'backbone.stages.1.0.gamma'}
    monkeypatch.undo()
    monkeypatch.setattr(model.ConvNeXtV2, 'no_weight_decay', lambda self: set())
    wrong = wrong_rates(find_row('mask-rcnn_convnextv2-atto_fcmae_3x-lsj_coco'))
    assert 'backbone.stages.0.0.grn.gamma' in wrong
    assert all('.grn.' in name for name in wrong)
