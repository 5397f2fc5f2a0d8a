"""timm's models as backbones, against timm itself, against ours, and against mmdet's Swin."""

import pytest
import timm
import torch
from mmdet.models.backbones.swin import SwinTransformer, swin_converter
from torch import nn

from backbones import ConfigError, ConvNeXt, ConvNeXtV2, TimmBackbone, WeightsError, load_pretrained
from backbones.optim.layer_decay import LayerDecayOptimWrapperConstructor, depths_of
from backbones.weights.load import load_state


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model.eval()


def image(height: int, width: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


@torch.no_grad()
@pytest.mark.parametrize('name', ['resnet18', 'efficientnet_lite0', 'pvt_v2_b0', 'hrnet_w18_small'])
def test_maps_are_those_of_timm(name):
    backbone = randomised(TimmBackbone(name, output_norm=False).double())
    theirs = timm.create_model(name, features_only=True, num_classes=0)
    reductions = theirs.feature_info.reduction()
    whole = timm.create_model(name, num_classes=0).double().eval()
    missing = whole.load_state_dict(backbone.model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    x = image(96, 128)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    expected = [m for m, r in zip(expected, reductions) if r in (4, 8, 16, 32)]
    for ours, their in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ('name', 'cls', 'arch'),
    [('convnext_atto', ConvNeXt, 'atto'), ('convnextv2_atto', ConvNeXtV2, 'atto')],
)
def test_its_convnext_is_ours(name, cls, arch):
    theirs, ours = TimmBackbone(name), cls(arch)
    randomised(theirs)
    load_state(ours, {k: v for k, v in theirs.state_dict().items() if k.startswith('model.')})
    for i in range(4):
        getattr(ours, f'norm{i}').load_state_dict(getattr(theirs, f'norm{i}').state_dict())
    ours.double().eval()
    theirs.double()
    with torch.no_grad():
        for a, b in zip(ours(image(75, 107)), theirs(image(75, 107)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert theirs.out_channels == ours.out_channels


def official_swin(model: nn.Module) -> dict[str, torch.Tensor]:
    """A timm Swin's tensors under their official names."""
    official = {}
    for key, value in model.state_dict().items():
        # timm merges patches at the beginning of a stage, the official code at the end
        if '.downsample.' in key:
            stage = int(key.split('.')[1])
            key = key.replace(f'layers.{stage}.', f'layers.{stage - 1}.')
        official[key.replace('head.fc.', 'head.')] = value
    return official


@torch.no_grad()
@pytest.mark.parametrize('size', [(224, 224), (96, 160), (101, 139)])
def test_its_swin_is_that_of_mmdet(size):
    """Windows, shifts, masks and merging at any size, with a LayerNorm on every output."""
    ours = randomised(TimmBackbone('swin_tiny_patch4_window7_224').double())
    official = official_swin(ours.model)
    theirs = SwinTransformer(convert_weights=True).double()
    theirs.eval()
    converted = {k.removeprefix('backbone.'): v for k, v in swin_converter(official).items()}
    converted |= {k: v for k, v in ours.state_dict().items() if k.startswith('norm')}
    found = theirs.load_state_dict(converted, strict=False)
    assert not found.unexpected_keys
    assert all(k.endswith('relative_position_index') for k in found.missing_keys)
    for a, b in zip(ours(image(*size)), theirs(image(*size)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_parameters_of_swin_are_the_published_ones():
    with torch.device('meta'):
        backbone = TimmBackbone('swin_tiny_patch4_window7_224')
    norms = sum(p.numel() for n, p in backbone.named_parameters() if n.startswith('norm'))
    assert sum(p.numel() for p in backbone.parameters()) - norms == 27_517_818


@pytest.mark.parametrize(
    ('name', 'side'), [('vit_tiny_patch16_224', 16), ('xcit_nano_12_p8_224', 8)]
)
def test_a_plain_vit_gets_a_pyramid(name, side):
    backbone = TimmBackbone(name)
    width = backbone.model.embed_dim
    assert backbone.out_strides == (4, 8, 16, 32)
    expected = [width * min(1, s / side) for s in (4, 8, 16, 32)]
    assert list(backbone.out_channels) == expected
    for height, width in ((64, 96), (75, 107)):
        maps = backbone(image(height, width, torch.float32))
        sizes = [tuple(m.shape[-2:]) for m in maps]
        assert sizes == [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_strides_in_between_come_from_the_nearest():
    backbone = TimmBackbone('efficientvit_m0')  # 16, 32 and 64
    assert sorted(backbone.pyramid) == ['0', '1']
    assert backbone.out_channels == (16, 32, 64, 128)


def test_windows_that_fit_one_size_are_padded():
    backbone = TimmBackbone('maxvit_tiny_tf_224').eval()
    assert backbone.input_divisor == 224
    with torch.no_grad():
        maps = backbone(image(64, 96, torch.float32))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_outputs_get_a_norm_unless_batch_norm_is_the_only_one():
    assert TimmBackbone('swin_tiny_patch4_window7_224').output_norm
    assert TimmBackbone('vit_tiny_patch16_224').output_norm
    assert not TimmBackbone('resnet18').output_norm
    assert not TimmBackbone('hrnet_w18_small').output_norm
    assert TimmBackbone('test_nfnet').output_norm
    assert not TimmBackbone('resnet18', output_norm=False).output_norm


def test_output_indices_choose_maps():
    backbone = TimmBackbone('resnet18', out_indices=(1, 3))
    assert backbone.out_channels == (128, 512)
    assert backbone.out_strides == (8, 32)
    assert [m.shape[1] for m in backbone(image(64, 64, torch.float32))] == [128, 512]
    assert not [n for n in TimmBackbone('resnet18', out_indices=(1,)).state_dict() if 'layer4' in n]


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ({'model': 'resnet5'}, 'Did you mean resnet50'),
        ({'model': 'coatnet_0_rw_224'}, 'made for images of 224 x 224'),
        ({'model': 'beit_base_patch16_224'}, 'with others it fails'),
        ({'model': 'mvitv2_tiny'}, 'position tables do not fit'),
        ({'model': 'inception_v3'}, 'a map of stride 4 is'),
        ({'model': 'convmixer_768_32'}, 'feature maps have stride 7'),
        ({'model': 'sequencer2d_s'}, 'feature maps have stride 7, 14'),
        ({'model': 'dla34', 'drop_path_rate': 0.1}, 'has no drop path'),
        ({'model': 'resnet18', 'out_indices': (4,)}, 'out of 0, 1, 2, 3'),
        ({'model': 'resnet18', 'frozen_stages': 5}, 'has 4'),
        ({'model': 'resnet18', 'model_args': {'nonsense': 1}}, 'cannot be built with'),
    ],
)
def test_what_cannot_be_is_one_clear_error(args, message):
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(**args)


def test_frozen_stages_and_frozen_statistics():
    backbone = TimmBackbone('resnet18', frozen_stages=1, norm_eval=True)
    trains = {n.split('.')[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trains == {'layer2', 'layer3', 'layer4'}
    backbone.train()
    before = backbone.state_dict()['model.layer4.1.bn2.running_mean'].clone()
    backbone(image(64, 64, torch.float32))
    assert torch.equal(before, backbone.state_dict()['model.layer4.1.bn2.running_mean'])
    assert backbone.model.layer4.training
    assert not backbone.model.layer4[1].bn2.training
    assert not backbone.model.layer1[0].conv1.training
    backbone = TimmBackbone('resnet18').train()
    backbone(image(64, 64, torch.float32))
    assert not torch.equal(before, backbone.state_dict()['model.layer4.1.bn2.running_mean'])


def test_recomputed_blocks_give_the_same_gradients():
    plain, saving = TimmBackbone('resnet18'), TimmBackbone('resnet18', with_cp=True)
    saving.load_state_dict(plain.state_dict())
    grads = []
    for backbone in (plain, saving):
        sum(m.sum() for m in backbone(image(64, 64, torch.float32))).backward()
        grads.append(backbone.model.conv1.weight.grad)
    torch.testing.assert_close(*grads)


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Linear(2, 2)


def groups_of(backbone: nn.Module, decay_type='layer_wise') -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter."""
    constructor = LayerDecayOptimWrapperConstructor(
        {'optimizer': {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 0.05}},
        {'decay_type': decay_type, 'decay_rate': 0.7},
    )
    return {
        name: (group['lr'], group['weight_decay'])
        for group in constructor.param_groups(Detector(backbone))
        for name in group['param_names']
    }


def test_plain_vits_have_the_rates_of_vitdet():
    """ViTDet: the patches have exponent 13 in a ViT-B, block b 12 - b, everything else 0."""
    with torch.device('meta'):
        backbone = TimmBackbone('vit_base_patch16_224')
    found = groups_of(backbone)
    for name, (lr, _) in found.items():
        words = name.split('.')
        if words[1] != 'model':
            exponent = 0
        elif words[2] == 'blocks':
            exponent = 12 - int(words[3])
        else:
            exponent = 13
        assert lr == pytest.approx(1e-4 * 0.7**exponent), name
    assert found['backbone.model.pos_embed'][1] == 0
    assert found['backbone.model.patch_embed.proj.weight'][1] == 0.05


def test_more_than_twelve_layers_share_groups():
    with torch.device('meta'):
        backbone = TimmBackbone('vit_large_patch16_224')
    depths = depths_of(backbone)
    blocks = [depths[f'model.blocks.{i}.mlp.fc1.weight'] for i in range(24)]
    assert blocks == [(1 + i // 2, 14) for i in range(24)]


def test_swin_spares_its_position_tables():
    with torch.device('meta'):
        backbone = TimmBackbone('swin_tiny_patch4_window7_224')
    found = groups_of(backbone)
    for name, (_, decay) in found.items():
        spared = 'relative_position_bias_table' in name or 'norm' in name or name.endswith('bias')
        assert (decay == 0) == spared, name


def test_stages_share_a_rate_where_there_are_stages():
    with torch.device('meta'):
        swin, vit = (
            TimmBackbone(n) for n in ('swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224')
        )
    depths = depths_of(swin, 'stage_wise')
    stages = {
        name.split('.')[2] if 'layers' in name else name.split('.')[1]: depth
        for name, (depth, _) in depths.items()
    }
    # weight and bias are those of the output norms
    assert stages == {'patch_embed': 0, '0': 1, '1': 2, '2': 3, '3': 4, 'weight': 13, 'bias': 13}
    assert depths_of(vit, 'stage_wise') == depths_of(vit)


def test_resnets_learn_at_one_rate():
    for decay_type in ('layer_wise', 'stage_wise'):
        assert {lr for lr, _ in groups_of(TimmBackbone('resnet18'), decay_type).values()} == {1e-4}


def weights_file(tmp_path, name: str, **args):
    model = randomised(timm.create_model(name, **args))
    path = tmp_path / f'{name}.pth'
    torch.save(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize(
    'name', ['resnet18', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224', 'pvt_v2_b0']
)
def test_weights_load_whole(name, tmp_path):
    model, path = weights_file(tmp_path, name)
    backbone = TimmBackbone(name, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    backbone.init_weights()
    for key, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key])
    report = load_pretrained(TimmBackbone(name), str(path))
    assert report.complete
    assert all(key.startswith(('norm', 'pyramid')) for key in report.initialized)


def test_patches_of_14_pixels_become_16(tmp_path):
    model, path = weights_file(tmp_path, 'vit_small_patch14_dinov2')
    backbone = TimmBackbone('vit_small_patch14_dinov2')
    assert load_pretrained(backbone, str(path)).complete
    assert backbone.model.patch_embed.proj.weight.shape[-2:] == (16, 16)
    torch.testing.assert_close(
        backbone.model.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight
    )


def test_the_official_swin_file_loads(tmp_path):
    model, _ = weights_file(tmp_path, 'swin_tiny_patch4_window7_224')
    official = official_swin(model)
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            start = f'layers.{stage}.blocks.{block}.'
            official[f'{start}attn.relative_position_index'] = torch.zeros(49, 49)
            if block % 2:
                official[f'{start}attn_mask'] = torch.zeros(64, 49, 49)
    path = tmp_path / 'swin.pth'
    torch.save({'model': official}, path)
    backbone = TimmBackbone('swin_tiny_patch4_window7_224')
    report = load_pretrained(backbone, str(path))
    assert report.complete, str(report)
    key = 'layers.2.downsample.reduction.weight'
    torch.testing.assert_close(backbone.model.state_dict()[key], model.state_dict()[key])


def test_a_detectors_own_backbone_loads_again(tmp_path):
    backbone = randomised(TimmBackbone('vit_tiny_patch16_224'))
    path = tmp_path / 'detector.pth'
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    torch.save({'state_dict': {**state, 'neck.weight': torch.zeros(2)}}, path)
    other = TimmBackbone('vit_tiny_patch16_224')
    report = load_pretrained(other, str(path))
    assert not report.initialized
    assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in other.state_dict().items())


def test_weights_of_another_model_are_refused(tmp_path):
    _, path = weights_file(tmp_path, 'resnet34')
    backbone = TimmBackbone('resnet18')
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match='does not match this TimmBackbone'):
        load_pretrained(backbone, str(path))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize(
    'name', ['swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224', 'pvt_v2_b0']
)
def test_weights_of_quite_another_network_are_refused(name, tmp_path):
    _, path = weights_file(tmp_path, 'resnet18')
    with pytest.raises(WeightsError, match='does not match this TimmBackbone'):
        load_pretrained(TimmBackbone(name), str(path))


def test_a_missing_file_is_one_clear_error():
    backbone = TimmBackbone(
        'resnet18', init_cfg={'type': 'Pretrained', 'checkpoint': 'nowhere/resnet18.pth'}
    )
    with pytest.raises(WeightsError, match='nowhere/resnet18.pth'):
        backbone.init_weights()
