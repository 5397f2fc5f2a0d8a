"""Learning-rate groups against the tables of the official code, parameter by parameter."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from backbones import ConfigError, ConvNeXt, ConvNeXtV2, LayerDecayOptimWrapperConstructor

# Exponents of the decay rate, counted from the head: stem, stage 0, downsample 1 and stage 1,
# downsample 2, blocks of stage 2 by threes, downsample 3 and stage 3.
LAYER_WISE = {
    'tiny': {'stem': 7, 'stage0': 6, 'stage1': 5, 'down2': 4, 'stage2': [4, 3, 2], 'stage3': 1},
    'base': {
        'stem': 13,
        'stage0': 12,
        'stage1': 11,
        'down2': 10,
        'stage2': [10, 9, 8, 7, 6, 5, 4, 3, 2],
        'stage3': 1,
    },
}


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(8, 8, 1)
        self.stages = nn.Linear(4, 4)  # a name that only looks like the backbone's


def constructor(decay_type: str, rate: float, **options) -> LayerDecayOptimWrapperConstructor:
    optimizer = {'type': 'AdamW', 'lr': 2e-4, 'weight_decay': 0.05}
    paramwise = {'decay_type': decay_type, 'decay_rate': rate, **options}
    return LayerDecayOptimWrapperConstructor({'optimizer': optimizer}, paramwise)


def on_meta(cls, arch) -> Detector:
    with torch.device('meta'):
        return Detector(cls(arch))


def rates(groups: list[dict]) -> dict[str, float]:
    return {name: group['lr'] for group in groups for name in group['param_names']}


def expected_exponent(name: str, table: dict) -> int:
    words = name.split('.')
    if words[0] != 'backbone' or words[1] not in ('downsample_layers', 'stages'):
        return 0
    stage = int(words[2])
    if words[1] == 'downsample_layers':
        return {0: table['stem'], 1: table['stage1'], 2: table['down2'], 3: table['stage3']}[stage]
    if stage == 2:
        return table['stage2'][int(words[3]) // 3]
    return table[f'stage{stage}']


@pytest.mark.parametrize('size', LAYER_WISE)
@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
def test_layer_wise_rates_are_the_official_ones(cls, size):
    model = on_meta(cls, size)
    found = rates(constructor('layer_wise', 0.7).param_groups(model))
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, lr in found.items():
        assert lr == pytest.approx(2e-4 * 0.7 ** expected_exponent(name, LAYER_WISE[size])), name


@pytest.mark.parametrize(('size', 'n'), [('tiny', 6), ('small', 12)])
def test_stage_wise_rates_are_the_official_ones(size, n):
    found = rates(constructor('stage_wise', 0.9).param_groups(on_meta(ConvNeXt, size)))
    for name, lr in found.items():
        words = name.split('.')
        if words[:2] == ['backbone', 'downsample_layers']:
            exponent = n + 1
        elif words[:2] == ['backbone', 'stages']:
            exponent = n - int(words[2])
        else:
            exponent = 0
        assert lr == pytest.approx(2e-4 * 0.9**exponent), name


def test_published_scales_of_small_recipes():
    groups = constructor('layer_wise', 0.7).param_groups(on_meta(ConvNeXt, 'tiny'))
    scales = sorted({round(group['lr_scale'], 4) for group in groups})
    assert scales == [0.0824, 0.1176, 0.1681, 0.2401, 0.343, 0.49, 0.7, 1.0]


def test_no_weight_decay_on_flat_parameters_biases_and_grn():
    model = Detector(ConvNeXtV2('atto'))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for group in constructor('layer_wise', 0.9).param_groups(model):
        for name in group['param_names']:
            spared = len(shapes[name]) <= 1 or name.endswith('.bias') or '.grn.' in name
            assert group['weight_decay'] == (0 if spared else 0.05), name
    assert any('.grn.' in name and len(shape) == 4 for name, shape in shapes.items())


def test_each_trainable_parameter_is_in_one_group_and_frozen_ones_in_none():
    model = Detector(ConvNeXt('atto', frozen_stages=2))
    model.shared = model.neck
    groups = constructor('layer_wise', 0.9).param_groups(model)
    grouped = [id(p) for group in groups for p in group['params']]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert len(grouped) < len(list(model.parameters()))


def test_first_group_has_the_base_rate_and_the_optimizer_steps():
    model = Detector(ConvNeXt('atto'))
    wrapper = constructor('layer_wise', 0.5)(model)
    assert isinstance(wrapper, OptimWrapper)
    assert wrapper.optimizer.param_groups[0]['lr'] == 2e-4
    lrs = [group['lr'] for group in wrapper.optimizer.param_groups]
    assert lrs == sorted(lrs, reverse=True)
    before = model.neck.weight.clone()
    wrapper.update_params(model.neck.weight.square().sum() + model.neck.bias.sum())
    assert not torch.equal(before, model.neck.weight)


def test_any_backbone_that_knows_its_depths_will_do():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def get_layer_depth(self, name, prefix=''):
            name = name.removeprefix(prefix)
            return (0 if name.startswith('first') else 1 if name else 2), 3

    found = rates(constructor('layer_wise', 0.1).param_groups(Detector(Mine())))
    assert found['backbone.first.weight'] == pytest.approx(2e-6)
    assert found['backbone.second.weight'] == pytest.approx(2e-5)
    assert found['neck.weight'] == 2e-4


class Plain(nn.Module):
    """A backbone that knows nothing of depths."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in range(blocks)))


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_without_an_answer_the_order_of_blocks_decides(decay_type):
    found = rates(constructor(decay_type, 0.1).param_groups(Detector(Plain())))
    assert found['backbone.stem.weight'] == pytest.approx(2e-4 * 0.1**5)
    for i in range(4):
        assert found[f'backbone.blocks.{i}.0.bias'] == pytest.approx(2e-4 * 0.1 ** (4 - i))
    assert found['neck.weight'] == 2e-4


def test_many_blocks_share_twelve_groups():
    groups = constructor('layer_wise', 0.5).param_groups(Detector(Plain(blocks=30)))
    assert sorted({group['layer_id'] for group in groups}) == list(range(14))
    sizes = [sum(len(g['params']) for g in groups if g['layer_id'] == i) for i in range(1, 13)]
    assert set(sizes) <= {4, 6}


@pytest.mark.parametrize(
    ('answer', 'message'),
    [(3, 'must return'), ((5, 3), 'must return'), ((-1, 3), 'must return'), (None, 'must return')],
)
def test_an_answer_that_is_no_depth_is_an_error(answer, message):
    backbone = Plain()
    backbone.get_layer_depth = lambda name, prefix='': answer
    with pytest.raises(ConfigError, match=message):
        constructor('layer_wise', 0.5).param_groups(Detector(backbone))


def test_group_table_is_logged_once_in_few_lines(capsys):
    from mmengine.logging import MMLogger

    MMLogger.get_instance('group-table')
    constructor('layer_wise', 0.9)(Detector(ConvNeXt('atto')))
    text = capsys.readouterr().out
    assert 'Parameter groups:' in text
    assert 10 < len(text.splitlines()) < 25


def test_a_contradicting_number_of_layers_is_an_error():
    model = on_meta(ConvNeXt, 'base')
    assert constructor('layer_wise', 0.9, num_layers=12).param_groups(model)
    with pytest.raises(ConfigError, match='num_layers=6 contradicts ConvNeXt, which has 12'):
        constructor('layer_wise', 0.9, num_layers=6).param_groups(model)


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        ({}, 'decay_rate=None'),
        ({'decay_rate': 0}, r'\(0, 1\]'),
        ({'decay_rate': 0.9, 'decay_type': 'depth_wise'}, 'layer_wise, stage_wise'),
        ({'decay_rate': 0.9, 'norm_decay_mult': 0}, 'norm_decay_mult unknown'),
    ],
)
def test_bad_options_are_errors(paramwise, message):
    with pytest.raises(ConfigError, match=message):
        LayerDecayOptimWrapperConstructor({'optimizer': {'type': 'AdamW', 'lr': 1}}, paramwise)


def test_a_model_without_backbone_is_an_error():
    with pytest.raises(ConfigError, match='has no backbone'):
        constructor('layer_wise', 0.9).param_groups(nn.Linear(1, 1))


def test_a_name_that_only_looks_like_the_backbones_is_behind_it():
    model = Detector(Plain())
    model.stem = nn.Conv2d(3, 8, 3)
    found = rates(constructor('layer_wise', 0.5).param_groups(model))
    assert found['stem.weight'] == 2e-4
    assert found['backbone.stem.weight'] < 2e-4
