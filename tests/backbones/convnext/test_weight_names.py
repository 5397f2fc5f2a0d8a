"""Each library's weights, saved as it saves them, give its own feature maps here (float64, 1e-10)."""

import pytest
import timm
import torch
import torchvision
import transformers

from backbones import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, ConvNeXt, ConvNeXtV2
from backbones.convnext.weight_names import translate
from backbones.weights.load import load_state

from .minkowski import sparse_encoder_of

V1 = ('atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base', 'large', 'xlarge')
V2 = ('atto', 'femto', 'pico', 'nano', 'tiny', 'small', 'base', 'large', 'huge')
TIMM = [('convnext', s) for s in V1] + [('convnextv2', s) for s in V2]
COMPUTED = ('atto', 'tiny')
IMAGE = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ours(family: str, size: str) -> ConvNeXt:
    cls = ConvNeXtV2 if family == 'convnextv2' else ConvNeXt
    scale = 0.0 if family == 'convnextv2' else 1.0
    return cls(size, layer_scale_init_value=scale)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(0.1 * noise)
    return model


def require_equal(state: dict, model: ConvNeXt, maps: list[torch.Tensor], layout: str) -> None:
    """``state`` loads whole into ``model``, which then gives ``maps`` before its output norms."""
    report = load_state(model.double(), state)
    assert report.layout == layout
    assert report.complete
    assert set(report.loaded) | set(report.initialized) == set(model.state_dict())
    for i in range(4):
        setattr(model, f'norm{i}', torch.nn.Identity())
    with torch.no_grad():
        found = model.eval()(IMAGE)
    for ours_, theirs in zip(found, maps, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours_ / scale, theirs / scale, rtol=0, atol=1e-10)


@torch.no_grad()
def stages_of_timm(model) -> list[torch.Tensor]:
    return model.forward_intermediates(IMAGE, intermediates_only=True)


@torch.no_grad()
def stages_of_transformers(model) -> list[torch.Tensor]:
    output = model(IMAGE, output_hidden_states=True)
    return list(output.hidden_states)[-4:]


@pytest.mark.parametrize('size', COMPUTED)
@pytest.mark.parametrize('family', ['convnext', 'convnextv2'])
def test_timm(family, size):
    theirs = randomised(timm.create_model(f'{family}_{size}', num_classes=7))
    require_equal(theirs.state_dict(), ours(family, size), stages_of_timm(theirs), 'timm')


def test_timm_with_1x1_convolutions_and_old_head_names():
    theirs = randomised(timm.create_model('convnext_tiny', conv_mlp=True, num_classes=7))
    state = {
        k.replace('head.norm.', 'norm.').replace('head.fc.', 'head.'): v
        for k, v in theirs.state_dict().items()
    }
    assert state['stages.0.blocks.0.mlp.fc1.weight'].ndim == 4
    require_equal(state, ours('convnext', 'tiny'), stages_of_timm(theirs), 'timm')


def test_timm_features_only():
    theirs = randomised(timm.create_model('convnextv2_atto', features_only=True))
    with torch.no_grad():
        maps = theirs(IMAGE)
    require_equal(theirs.state_dict(), ours('convnextv2', 'atto'), maps, 'timm')


def test_torchvision():
    theirs = randomised(torchvision.models.convnext_tiny(num_classes=7))
    maps, x = [], IMAGE
    with torch.no_grad():
        for i, layer in enumerate(theirs.features):
            x = layer(x)
            maps += [x] if i % 2 else []
    require_equal(theirs.state_dict(), ours('convnext', 'tiny'), maps, 'torchvision')


def config_of(cls, arch):
    return cls(
        depths=list(arch.depths), hidden_sizes=list(arch.dims), layer_norm_eps=1e-6, num_labels=7,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )  # fmt: skip


@pytest.mark.parametrize('size', COMPUTED)
@pytest.mark.parametrize('kind', ['Model', 'ForImageClassification', 'Backbone'])
@pytest.mark.parametrize('family', ['convnext', 'convnextv2'])
def test_transformers(family, kind, size):
    stem = {'convnext': 'ConvNext', 'convnextv2': 'ConvNextV2'}[family]
    arch = (CONVNEXTV2_ARCHS if family == 'convnextv2' else CONVNEXT_ARCHS)[size]
    config = config_of(getattr(transformers, f'{stem}Config'), arch)
    theirs = randomised(getattr(transformers, f'{stem}{kind}')(config))
    maps = stages_of_transformers(theirs)
    require_equal(theirs.state_dict(), ours(family, size), maps, 'transformers')


def test_transformers_dinov3():
    arch = CONVNEXT_ARCHS['tiny']
    config = transformers.DINOv3ConvNextConfig(
        depths=list(arch.depths), hidden_sizes=list(arch.dims), layer_norm_eps=1e-6
    )
    theirs = randomised(transformers.DINOv3ConvNextModel(config))
    maps, x = [], IMAGE
    with torch.no_grad():
        for stage in getattr(theirs, 'stages', None) or theirs.model.stages:
            x = stage(x)
            maps.append(x)
    model = ours('convnext', 'tiny')
    require_equal(theirs.state_dict(), model, maps, 'transformers DINOv3')


def official_state(family: str, size: str) -> dict:
    """Names and shapes of the official classifiers' files."""
    model = randomised(ours(family, size))
    width = model.out_channels[-1]
    state = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith('norm')}
    state |= {f'norm.{p}': torch.ones(width, dtype=torch.float64) for p in ('weight', 'bias')}
    ones = torch.ones(7, width, dtype=torch.float64)
    return state | {'head.weight': ones, 'head.bias': ones[:, 0]}


def maps_of(state: dict, family: str, size: str) -> list[torch.Tensor]:
    model = ours(family, size).double().eval()
    for i in range(4):
        setattr(model, f'norm{i}', torch.nn.Identity())
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith(('norm', 'head'))})
    with torch.no_grad():
        return list(model(IMAGE))


@pytest.mark.parametrize('family', ['convnext', 'convnextv2'])
def test_mmpretrain(family):
    state = official_state(family, 'atto')
    renamed = {}
    for key, value in state.items():
        key = key.replace('dwconv', 'depthwise_conv').replace('pwconv', 'pointwise_conv')
        if key.startswith('norm.'):
            key = key.replace('norm.', 'norm3.')
        key = key.replace('head.', 'head.fc.') if key.startswith('head') else f'backbone.{key}'
        renamed[key] = value.flatten() if '.grn.' in key else value
    model = ours(family, 'atto')
    require_equal(renamed, model, maps_of(state, family, 'atto'), 'mmpretrain')
    assert 'norm.weight' in translate(renamed).tensors


@pytest.mark.parametrize('shape', [(-1,), (1, -1), (1, 1, 1, -1)])
def test_official_fcmae_of_every_stored_shape(shape):
    state = official_state('convnextv2', 'atto')
    stored = {
        k: v.reshape(shape) if '.grn.' in k else v
        for k, v in state.items()
        if not k.startswith(('norm', 'head'))
    }
    maps = maps_of(state, 'convnextv2', 'atto')
    require_equal(stored, ours('convnextv2', 'atto'), maps, 'official')


def sparse_of(state: dict) -> dict:
    """A whole checkpoint of the sparse pre-training code, with a part of its decoder."""
    sparse = sparse_encoder_of(
        {k: v for k, v in state.items() if not k.startswith(('norm', 'head'))}
    )
    return sparse | decoder_part()


def decoder_part() -> dict:
    return {
        'mask_token': torch.zeros(1, 512, 1, 1),
        'proj.weight': torch.zeros(512, 320, 1, 1),
        'decoder.0.dwconv.weight': torch.zeros(512, 1, 7, 7),
        'pred.bias': torch.zeros(3072),
    }


def test_self_trained_sparse_fcmae():
    state = official_state('convnextv2', 'atto')
    sparse = sparse_of(state)
    assert sparse['encoder.stages.0.0.dwconv.kernel'].shape == (49, 40)
    assert sparse['encoder.downsample_layers.1.1.kernel'].shape == (4, 40, 80)
    assert 'encoder.stages.0.0.pwconv1.linear.weight' in sparse
    maps = maps_of(state, 'convnextv2', 'atto')
    layout = 'sparse FCMAE (MinkowskiEngine)'
    require_equal(sparse, ours('convnextv2', 'atto'), maps, layout)


@pytest.mark.parametrize('prefix', ['', 'encoder.'])
def test_a_decoder_beside_official_names_is_no_part_of_the_backbone(prefix):
    state = official_state('convnextv2', 'atto')
    encoder = {prefix + k: v for k, v in state.items() if not k.startswith(('norm', 'head'))}
    maps = maps_of(state, 'convnextv2', 'atto')
    require_equal(encoder | decoder_part(), ours('convnextv2', 'atto'), maps, 'official')


def test_official_dinov3_holds_its_final_norm_twice():
    state = {k: v for k, v in official_state('convnext', 'tiny').items() if 'head' not in k}
    state |= {'norms.3.weight': state['norm.weight'], 'norms.3.bias': state['norm.bias']}
    maps = maps_of(state, 'convnext', 'tiny')
    require_equal(state, ours('convnext', 'tiny'), maps, 'official')


@pytest.mark.parametrize('prefix', ['module.', 'backbone.', 'model.backbone.', 'teacher.backbone.'])
def test_wrappers_prefixes_are_found(prefix):
    state = official_state('convnext', 'atto')
    wrapped = {prefix + k: v for k, v in state.items()}
    maps = maps_of(state, 'convnext', 'atto')
    require_equal(wrapped, ours('convnext', 'atto'), maps, 'official')


@pytest.mark.parametrize(('family', 'size'), TIMM)
def test_every_size_of_timm_by_names_and_shapes(family, size):
    with torch.device('meta'):
        state = timm.create_model(f'{family}_{size}').state_dict()
        expected = ours(family, size).state_dict()
    require_same_names(state, expected)


@pytest.mark.parametrize('size', ['tiny', 'small', 'base', 'large'])
def test_every_size_of_torchvision_by_names_and_shapes(size):
    with torch.device('meta'):
        state = getattr(torchvision.models, f'convnext_{size}')().state_dict()
        expected = ours('convnext', size).state_dict()
    require_same_names(state, expected)


@pytest.mark.parametrize(('family', 'size'), TIMM)
def test_every_size_of_transformers_by_names_and_shapes(family, size):
    stem = {'convnext': 'ConvNext', 'convnextv2': 'ConvNextV2'}[family]
    with torch.device('meta'):
        expected = ours(family, size)
        config = config_of(getattr(transformers, f'{stem}Config'), expected.arch)
        state = getattr(transformers, f'{stem}ForImageClassification')(config).state_dict()
    require_same_names(state, expected.state_dict())


def require_same_names(state: dict, expected: dict) -> None:
    found = translate(state)
    assert not found.foreign
    body = {k: v.numel() for k, v in expected.items() if not k.startswith('norm')}
    tensors = {k: v.numel() for k, v in found.tensors.items()}
    assert {k: v for k, v in tensors.items() if not k.startswith(('norm', 'head'))} == body
    assert {'norm.weight', 'head.weight'} <= set(tensors)
