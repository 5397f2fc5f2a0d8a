"""ConvNeXt and ConvNeXt V2 against timm and torchvision, the published counts, and bad arguments."""

import pytest
import timm
import torch
import torchvision
from mmengine.registry import MODELS

from backbones import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, ConfigError, ConvNeXt, ConvNeXtV2
from backbones.convnext import Block

# Parameters of the dense-prediction backbone (body and four output norms).
PARAMETERS = {
    ConvNeXt: {
        'atto': 3_375_080,
        'femto': 4_833_456,
        'pico': 8_533_568,
        'nano': 14_953_680,
        'tiny': 27_821_472,
        'small': 49_456_032,
        'base': 87_568_256,
        'large': 196_233_024,
        'xlarge': 348_151_552,
    },
    ConvNeXtV2: {
        'atto': 3_387_960,
        'femto': 4_848_912,
        'pico': 8_554_176,
        'nano': 14_983_920,
        'tiny': 27_867_840,
        'small': 49_550_784,
        'base': 87_694_592,
        'large': 196_422_528,
        'huge': 657_477_568,
    },
}
SIZES = [(cls, size) for cls, counts in PARAMETERS.items() for size in counts]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its initial value, so that none can hide (GRN starts at zero)."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(0.1 * noise)
    return model


def official_from_timm(state: dict) -> dict:
    """timm's keys as official ones."""
    official = {}
    for key, value in state.items():
        if key.startswith('head.') or key.startswith('norm_pre'):
            continue
        key = key.replace('stem.', 'downsample_layers.0.')
        for i in (1, 2, 3):
            key = key.replace(f'stages.{i}.downsample.', f'downsample_layers.{i}.')
        for theirs, ours in (
            ('.blocks.', '.'),
            ('.conv_dw.', '.dwconv.'),
            ('.mlp.fc1.', '.pwconv1.'),
            ('.mlp.fc2.', '.pwconv2.'),
            ('.mlp.grn.weight', '.grn.gamma'),
            ('.mlp.grn.bias', '.grn.beta'),
        ):
            key = key.replace(theirs, ours)
        if '.grn.' in key:
            value = value.reshape(1, 1, 1, -1)
        elif '.pwconv' in key and value.ndim == 4:
            value = value.flatten(1)
        official[key] = value
    return official


def official_from_torchvision(state: dict) -> dict:
    """torchvision's keys as official ones."""
    parts = {
        'block.0': 'dwconv',
        'block.2': 'norm',
        'block.3': 'pwconv1',
        'block.5': 'pwconv2',
        'layer_scale': 'gamma',
    }
    official = {}
    for key, value in state.items():
        kind, index, rest = key.split('.', 2)
        if kind == 'classifier':
            continue
        stage, is_stage = divmod(int(index), 2)
        if not is_stage:
            official[f'downsample_layers.{stage}.{rest}'] = value
            continue
        block, rest = rest.split('.', 1)
        for theirs, ours in parts.items():
            rest = rest.replace(theirs, ours)
        if rest == 'gamma':
            value = value.flatten()
        official[f'stages.{stage}.{block}.{rest}'] = value
    return official


def raw_features(model: ConvNeXt, state: dict, x: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps before the output norms, which classifiers do not have."""
    for i in range(4):
        setattr(model, f'norm{i}', torch.nn.Identity())
    assert set(model.state_dict()) == set(state)
    model.load_state_dict(state)
    return list(model.eval()(x))


@pytest.mark.parametrize(('cls', 'size'), SIZES)
def test_parameter_counts_are_the_published_ones(cls, size):
    with torch.device('meta'):
        model = cls(size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[cls][size]


def test_every_size_of_the_tables_is_counted():
    assert set(PARAMETERS[ConvNeXt]) == set(CONVNEXT_ARCHS)
    assert set(PARAMETERS[ConvNeXtV2]) == set(CONVNEXTV2_ARCHS)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
    ('cls', 'size', 'name'),
    [
        (ConvNeXt, 'atto', 'convnext_atto'),
        (ConvNeXt, 'tiny', 'convnext_tiny'),
        (ConvNeXtV2, 'atto', 'convnextv2_atto'),
        (ConvNeXtV2, 'tiny', 'convnextv2_tiny'),
    ],
)
def test_forward_equals_timm(cls, size, name, dtype):
    theirs = randomised(timm.create_model(name, features_only=True).to(dtype)).eval()
    state = {
        k.replace('stem_', 'stem.').replace('stages_', 'stages.'): v
        for k, v in theirs.state_dict().items()
    }
    x = torch.randn(2, 3, 64, 96, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x)
        got = raw_features(cls(size).to(dtype), official_from_timm(state), x)
    for ours, reference in zip(got, expected, strict=True):
        scale = reference.abs().max()
        torch.testing.assert_close(ours / scale, reference / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_forward_equals_torchvision(dtype):
    theirs = randomised(torchvision.models.convnext_tiny().to(dtype)).eval()
    x = torch.randn(1, 3, 64, 96, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, features = [], x
        for i, layer in enumerate(theirs.features):
            features = layer(features)
            if i % 2:
                expected.append(features)
        state = official_from_torchvision(theirs.state_dict())
        got = raw_features(ConvNeXt('tiny').to(dtype), state, x)
    for ours, reference in zip(got, expected, strict=True):
        scale = reference.abs().max()
        torch.testing.assert_close(ours / scale, reference / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
def test_outputs_have_the_stated_channels_and_strides(cls):
    model = cls('atto', out_indices=(1, 3))
    maps = model(torch.randn(2, 3, 64, 128))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 128 // stride)
        for channels, stride in zip(model.out_channels, model.out_strides)
    ]
    assert [n for n, _ in model.named_children() if n.startswith('norm')] == ['norm1', 'norm3']


def test_output_norm_does_not_touch_the_next_stage():
    model = randomised(ConvNeXt('atto')).eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    model.norm0.weight.data.zero_()
    after = model(x)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(b, a) for b, a in zip(before[1:], after[1:]))


def test_order_of_outputs_follows_out_indices():
    model = ConvNeXt('atto', out_indices=(3, 0)).eval()
    assert [m.shape[1] for m in model(torch.randn(1, 3, 64, 64))] == [320, 40]


def test_stages_after_the_last_map_are_not_built(tmp_path):
    """They would get no gradient. Weights of the whole network load, and the maps are the same."""
    whole = randomised(ConvNeXt('atto', drop_path_rate=0.4))
    file = tmp_path / 'whole.pth'
    torch.save({**whole.state_dict(), 'head.weight': torch.zeros(10, 320)}, file)
    start = dict(type='Pretrained', checkpoint=str(file))
    part = ConvNeXt('atto', out_indices=(2, 1), drop_path_rate=0.4, init_cfg=start)
    part.init_weights()
    assert (len(part.stages), len(part.downsample_layers)) == (3, 3)
    rates = [[b.drop_path.p for stage in net.stages for b in stage] for net in (whole, part)]
    assert rates[1] == rates[0][: len(rates[1])]
    x = torch.randn(1, 3, 64, 64)
    whole.eval()
    part.eval()
    maps = part(x)
    assert all(torch.equal(a, b) for a, b in zip(maps, whole(x)[2:0:-1], strict=True))
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in part.parameters())


def test_drop_path_rate_grows_linearly_over_blocks():
    model = ConvNeXt('tiny', drop_path_rate=0.4)
    rates = [block.drop_path.p for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.4 * i / 17 for i in range(18)])


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = Block(8, 0.25, 1.0, False).drop_path.train()
    out = layer(torch.ones(4000, 3, 2, 2))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(out), out)
    assert Block(8, 1.0, 1.0, False).drop_path.train()(torch.ones(3, 1)).sum() == 0


def test_layer_scale_zero_leaves_it_out():
    assert ConvNeXt('atto', layer_scale_init_value=0).stages[0][0].gamma is None
    gamma = ConvNeXt('atto', layer_scale_init_value=1e-6).stages[0][0].gamma
    assert torch.equal(gamma, torch.full((40,), 1e-6))
    assert not [
        n
        for n, _ in ConvNeXtV2('atto').named_parameters()
        if n.endswith('.gamma') and 'grn' not in n
    ]


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3, 4])
def test_frozen_stages_neither_train_nor_drop_paths(frozen):
    model = ConvNeXt('atto', frozen_stages=frozen, drop_path_rate=0.5).train()
    for i in range(4):
        is_frozen = i < frozen
        parts = [*model.downsample_layers[i].parameters(), *model.stages[i].parameters()]
        assert all(p.requires_grad != is_frozen for p in parts)
        assert model.stages[i].training != is_frozen
    assert model.norm3.weight.requires_grad


@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
def test_checkpointing_changes_no_gradient(cls):
    torch.manual_seed(0)
    plain, saving = cls('atto'), cls('atto', with_cp=True)
    randomised(plain)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for model in (plain, saving):
        sum(m.square().mean() for m in model(x)).backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_grn_in_half_precision_survives_large_maps():
    from backbones.convnext.block import GRN

    layer = GRN(8).half()
    layer.gamma.data.fill_(1)
    x = torch.full((1, 200, 336, 8), 30.0).half()
    assert torch.isfinite(layer(x)).all()


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_is_found_from_both_scopes(scope):
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        assert type(MODELS.build({'type': 'ConvNeXtV2', 'arch': 'atto'})) is ConvNeXtV2


@pytest.mark.parametrize(
    ('arguments', 'allowed'),
    [
        ({'arch': 'gigantic'}, 'atto, femto, pico, nano, tiny, small, base, large, xlarge'),
        ({'arch': {'depths': (1, 1, 1, 1)}}, 'dims'),
        ({'arch': {'depths': (1, 1, 1), 'dims': (8, 8, 8, 8)}}, 'four positive integers'),
        ({'out_indices': (0, 4)}, '0, 1, 2, 3'),
        ({'out_indices': (1, 1)}, 'at most once'),
        ({'out_indices': ()}, '0, 1, 2, 3'),
        ({'drop_path_rate': -0.1}, 'from 0 to 1'),
        ({'drop_path_rate': 1.1}, 'from 0 to 1'),
        ({'layer_scale_init_value': -1}, 'at least 0'),
        ({'frozen_stages': 5}, '-1 (none) to 4'),
    ],
)
def test_bad_arguments_list_what_is_allowed(arguments, allowed):
    with pytest.raises(ConfigError) as error:
        ConvNeXt(**{'arch': 'atto', **arguments})
    assert allowed in str(error.value)


@pytest.mark.parametrize(
    'init_cfg', [{'type': 'Kaiming'}, {'type': 'Pretrained'}, [{'type': 'TruncNormal'}]]
)
def test_unknown_init_cfg_is_refused(init_cfg):
    with pytest.raises(ConfigError, match='Pretrained'):
        ConvNeXt('atto', init_cfg=init_cfg).init_weights()


def test_blocks_and_stages_of_the_contract():
    model = ConvNeXt('atto')
    assert list(model.blocks()) == [block for stage in model.stages for block in stage]
    assert model.num_stages == len(model.stages) == 4
    assert model.takes_any_size
