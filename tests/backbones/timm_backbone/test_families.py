"""What holds for every family of timm: one model of each, on the meta device."""

from functools import cache

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import TimmBackbone
from backbones.optim.layer_decay import depths_of

# The quickest to build of each module of timm that has a possible backbone; the more unlike ones first.
FAMILIES = (
    'convnext_atto',
    'deit_tiny_patch16_224',
    'densenet121',
    'edgenext_xx_small',
    'efficientvit_m0',
    'fastvit_t8',
    'ghostnet_050',
    'hiera_small_abswin_256',
    'test_maxvit',
    'lcnet_050',
    'mobilevit_xxs',
    'test_nfnet',
    'rdnet_tiny',
    'resnet18',
    'swin_tiny_patch4_window7_224',
    'vgg11',
    'test_vit',
    'xcit_nano_12_p8_224',
)
MORE_FAMILIES = (
    'cpubone_s0',
    'dla34',
    'tinynet_a',
    'efficientvim_m1',
    'efficientvit_b0',
    'eva02_tiny_patch14_224',
    'hardcorenas_a',
    'inception_next_atto',
    'lowformer_b0',
    'mambaout_tiny',
    'pvt_v2_b0',
    'regnetv_040',
    'repghostnet_050',
    'resnest14d',
    'resnetv2_18',
    'rexnet_100',
    'selecsls42',
    'legacy_seresnet18',
    'shvit_s1',
    'skresnet18',
    'starnet_s050',
    'swinv2_cr_tiny_ns_224',
    'tiny_vit_5m_224',
    'vovnet39a',
    'xception41',
    'beit_base_patch16_384',
    'halonet26t',
    'mobileone_s0',
    'cait_m48_448',
    'csatv2',
    'darknet17',
    'cspnext_tiny',
    'davit_tiny',
    'deepseek_vit_412m',
    'dpn68',
    'fasternet_t0',
    'focalnet_tiny_srf',
    'hgnet_tiny',
    'sam2_hiera_tiny',
    'hrnet_w18',
    'iformer_h',
    'lcnetv2_small',
    'caformer_s18',
    'mobilenetv5_300m',
    'naflexvit_so150m2_patch16_reg1_gap',
    'nasnetalarge',
    'nextvit_small',
    'pnasnet5large',
    'qwen3_vit_88m',
    'repvit_m1',
    'res2net50d',
    'swiftformer_s',
    'swinv2_tiny_window8_256',
    'tresnet_m',
    'twins_svt_small',
    'vit_tiny_r_s16_p8_224',
    'samvit_base_patch16',
    'vitamin_small_224',
    'volo_d3_448',
    'legacy_xception',
)
every_family = pytest.mark.parametrize(
    'name', [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_FAMILIES)]
)


@cache
def with_frozen_stem(name: str) -> TimmBackbone:
    with torch.device('meta'):
        return TimmBackbone(name, frozen_stages=0)


def require_frozen_modules_evaluate(backbone: TimmBackbone) -> None:
    """A module with parameters is in evaluation mode exactly where all of them are frozen."""
    backbone.train()
    for name, module in backbone.named_modules():
        trained = [p.requires_grad for p in module.parameters()]
        assert not trained or module.training == any(trained), name
    assert all(not m.training for m in backbone.eval().modules())


@every_family
def test_frozen_stem_leaves_the_rest_in_training_mode(name):
    backbone = with_frozen_stem(name)
    require_frozen_modules_evaluate(backbone)
    frozen = sum(not p.requires_grad for p in backbone.parameters())
    assert frozen > 0
    if backbone.num_stages:  # otherwise timm has no groups of layers, and all of them are the stem
        assert frozen < len(list(backbone.parameters()))


@pytest.mark.parametrize('name', ['resnet18', 'test_vit', 'rdnet_tiny'])
def test_every_number_of_frozen_stages(name):
    frozen = []
    with torch.device('meta'):
        for stages in range(-1, TimmBackbone(name, size_divisor=32).num_stages + 1):
            backbone = TimmBackbone(name, size_divisor=32, frozen_stages=stages)
            require_frozen_modules_evaluate(backbone)
            frozen.append(sum(not p.requires_grad for p in backbone.model.parameters()))
    assert frozen[0] == 0
    assert frozen == sorted(set(frozen))
    assert frozen[-1] == len(list(backbone.model.parameters()))


@pytest.mark.parametrize('stages', [-1, 0, 1])
def test_what_timm_leaves_untrained_stays_so(stages):
    """EfficientViM's weights of its classifiers: no output uses them, and they get no gradient."""
    with torch.device('meta'):
        backbone = TimmBackbone('efficientvim_m1', size_divisor=32, frozen_stages=stages)
    assert not backbone.model.weights.requires_grad


def test_a_frozen_vit_drops_no_path_and_its_trained_blocks_do():
    backbone = TimmBackbone('test_vit', frozen_stages=2, drop_path_rate=0.5).train()
    dropping = [block.drop_path1.training for block in backbone.model.blocks]
    assert dropping == [False] * 2 + [True] * (len(dropping) - 2)


def test_a_wholly_frozen_backbone_switches_modes():
    backbone = TimmBackbone('resnet18', frozen_stages=4).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


@every_family
def test_a_forward_pass_gives_the_stated_maps_and_calls_the_stated_blocks(name):
    backbone = with_frozen_stem(name)
    names = {module: key for key, module in backbone.named_modules()}
    blocks = [names[block] for block in backbone.blocks()]
    calls = []
    handles = [
        backbone.get_submodule(key).register_forward_hook(lambda *_, key=key: calls.append(key))
        for key in blocks
    ]
    side = backbone.input_divisor * max(1, 64 // backbone.input_divisor)
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(2, 3, side, side, device='meta'))
    for handle in handles:
        handle.remove()
    for m, channels, stride in zip(maps, backbone.out_channels, backbone.out_strides, strict=True):
        assert m.shape[:2] == (2, channels)
        assert set(m.shape[2:]) <= {side // stride, -(-side // stride)}  # rounded down or up
        assert m.dtype == torch.float32
    assert sorted(calls) == sorted(blocks)
    assert not [(a, b) for a in blocks for b in blocks if b.startswith(f'{a}.')]


@every_family
@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_depths_rise_from_the_stem(name, decay_type):
    """The stem has the smallest depth, and what dense prediction adds has that of the heads."""
    backbone = with_frozen_stem(name)
    found = depths_of(backbone, decay_type)
    assert len({total for _, total in found.values()}) == 1
    # Parameters that the network itself holds, such as tables of positions, are defined before the stem.
    own = [
        depth for name, (depth, _) in found.items() if name.count('.') > 1 and name[:6] == 'model.'
    ]
    added = {depth for name, (depth, _) in found.items() if not name.startswith('model.')}
    assert own[0] == min(own)
    assert not added or added == {next(iter(found.values()))[1] - 1}
    recipe_has_decay = backbone.recipe_frozen_stages == -1  # ResNets' has none
    assert recipe_has_decay == (len(set(own)) > 1)


@pytest.mark.parametrize(
    ('name', 'kind', 'count'),
    [
        ('swin_tiny_patch4_window7_224', 'SwinTransformerBlock', 12),
        ('resnet18', 'BasicBlock', 8),
        ('vit_tiny_patch16_224', 'Block', 12),
        ('convnext_atto', 'ConvNeXtBlock', 12),
    ],
)
def test_blocks_are_those_of_the_paper(name, kind, count):
    with torch.device('meta'):
        blocks = list(TimmBackbone(name).blocks())
    assert sum(any(c.__name__ == kind for c in type(b).__mro__) for b in blocks) == count


# Norms of timm that include the activation, and plain ones.
WITH_BATCH_NORM = ('test_efficientnet', 'regnety_002', 'mobilenetv3_small_050', 'resnet18')


# 64 pixels are no multiple of their windows.
OWN_DIVISOR = ('test_maxvit', 'halonet26t', 'volo_d3_448')


@pytest.mark.parametrize(
    'name',
    [
        *WITH_BATCH_NORM,
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, *MORE_FAMILIES)),
    ],
)
@pytest.mark.parametrize('processes', [1, 2])
def test_synchronised_norms_change_no_output(name, processes, monkeypatch):
    """On one GPU, too, where mmengine's Runner reverts synchronised norms."""
    # A divisor that is given need not be found, which takes longer than the rest of the test.
    size = {} if name in OWN_DIVISOR else {'size_divisor': 32}
    with torch.device('meta'):
        modules = TimmBackbone(name, size_divisor=32).modules()
    if not any(isinstance(module, _BatchNorm) for module in modules):
        pytest.skip('has no BatchNorm')
    torch.manual_seed(0)
    plain = TimmBackbone(name, **size)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    if processes > 1:
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: processes)
    synced = TimmBackbone(name, **size, sync_bn=True)
    synced.load_state_dict(plain.state_dict())
    kinds = [nn.SyncBatchNorm in type(m).__mro__ for m in synced.modules()]
    assert any(kinds) == (processes > 1)
    if processes == 1:
        synced = revert_sync_batchnorm(synced)
    image = torch.randn(2, 3, 64, 64)
    for training in (True, False) if processes == 1 else (False,):  # SyncBN trains on CUDA alone
        outputs = []
        for backbone in (synced, plain):
            torch.manual_seed(1)  # of what is dropped
            with torch.no_grad():
                outputs.append(backbone.train(training)(image))
        for a, b in zip(*outputs, strict=True):
            assert torch.equal(a, b), training
    for key, value in plain.state_dict().items():  # running statistics
        assert torch.equal(synced.state_dict()[key], value) or processes > 1, key
