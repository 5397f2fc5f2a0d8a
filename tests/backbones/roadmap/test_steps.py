"""The ends of the roadmap are ResNet and ConvNeXt, and each step changes what the paper says."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from backbones import ConfigError, ConvNeXt, Roadmap
from backbones.layers import LayerNorm2d
from backbones.roadmap.block import Block
from backbones.roadmap.classifier import RoadmapClassifier, roadmap_classifier_of
from backbones.roadmap.steps import STEPS
from backbones.uninitialised import on_meta, without_initialisation
from backbones.weights.load import load_state

LAST = 'separate-downsampling'
SMALL = dict(depths=(1, 1, 2, 1), width=8)


def randomised(model: nn.Module) -> nn.Module:
    """``model`` in float64 with random parameters and statistics."""
    torch.manual_seed(0)
    for name, tensor in model.double().state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(1 if tensor.ndim == 1 and 'weight' in name else 0, 0.05)
    return model


def images(side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)


def resnet_maps(model: ResNet, x: Tensor) -> list[Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def assert_equal(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = other.detach().abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * max(scale, 1))


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_the_first_step_is_torchvisions_resnet_50(mode):
    with without_initialisation():
        theirs, ours = torchvision.models.resnet50(), Roadmap('resnet').double()
    randomised(theirs)
    report = load_state(ours, theirs.state_dict())
    assert report.layout == 'torchvision ResNet'
    assert report.complete
    ours.train(mode == 'train')
    theirs.train(mode == 'train')
    expected, found = resnet_maps(theirs, images()), ours(images())
    assert_equal(found, expected)
    if mode == 'train':
        for maps in (expected, found):
            sum(m.square().mean() for m in maps).backward()
        gradients = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
        renamed = ours.translate(gradients).tensors
        own = dict(ours.named_parameters())
        assert set(renamed) == set(own)
        assert_equal([own[name].grad for name in renamed], renamed.values())
        # the statistics that the pass left behind
        after = ours.translate(theirs.state_dict()).tensors
        assert_equal(ours.state_dict().values(), [after[key] for key in ours.state_dict()])


def test_resnet_200_has_the_tensors_of_torchvisions_blocks():
    with on_meta():
        theirs = ResNet(Bottleneck, [3, 24, 36, 3])
        ours = Roadmap('resnet', 'base')
    assert load_state(ours, theirs.state_dict()).complete


def test_the_first_classifier_has_torchvisions_logits():
    with without_initialisation():
        theirs = torchvision.models.resnet50(num_classes=10)
    randomised(theirs).eval()
    ours = RoadmapClassifier(Roadmap('resnet'), num_classes=10).double().eval()
    load_state(ours, theirs.state_dict())
    assert_equal([ours(images())], [theirs(images())])


@pytest.mark.parametrize('size', ['tiny', pytest.param('base', marks=pytest.mark.slow)])
def test_the_last_step_is_convnext(size):
    with without_initialisation():
        theirs, ours = ConvNeXt(size), Roadmap(LAST, size).double()
    randomised(theirs)
    assert list(dict(ours.named_parameters())) != []
    assert same_shapes(ours, theirs)
    report = load_state(ours, theirs.state_dict())
    assert report.complete
    assert not report.initialized
    for mode in (True, False):
        assert_equal(ours.train(mode)(images()), theirs.train(mode)(images()))
    sum(m.square().mean() for m in ours(images())).backward()
    sum(m.square().mean() for m in theirs(images())).backward()
    own = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert_equal([own[name].grad.view_as(parameter)], [parameter.grad])


def same_shapes(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether two networks have the same names and shapes but for the 1x1 of convolutions."""
    own, other = ours.state_dict(), theirs.state_dict()
    return set(own) == set(other) and all(
        own[name].flatten(1).shape == other[name].flatten(1).shape
        if own[name].ndim > 1
        else own[name].shape == other[name].shape
        for name in own
    )


@pytest.mark.parametrize('size', ['atto', 'base'])
def test_the_last_step_has_the_parameters_of_convnext(size):
    with on_meta():
        assert same_shapes(Roadmap(LAST, size), ConvNeXt(size))


def test_the_last_step_reads_every_layout_of_convnext():
    import timm

    theirs = timm.create_model('convnext_atto', num_classes=7).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    ours = roadmap_classifier_of(f'roadmap-{LAST}-atto', theirs.state_dict())
    image = images().float()
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


def blocks_of(step: str, **changes) -> list[Block]:
    return list(Roadmap(step, **{**SMALL, **changes}).blocks())


def calls(model: nn.Module, kinds) -> int:
    """How many modules of some kinds a forward pass calls, those that are called twice counted twice."""
    count = []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda *_: count.append(1))
    width = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    model.eval()(torch.zeros(1, width, 32, 32))
    return len(count)


# Activations and norms of a block within a stage, in the order of the steps.
ACTIVATIONS = dict.fromkeys(STEPS, 3) | dict.fromkeys(STEPS[10:], 1)
NORMS = dict.fromkeys(STEPS, 3) | dict.fromkeys(STEPS[11:], 1)


@pytest.mark.parametrize('step', STEPS)
def test_a_block_has_the_norms_and_activations_of_its_step(step):
    index = STEPS.index(step)
    activation = nn.ReLU if index < 9 else nn.GELU
    norm = nn.BatchNorm2d if index < 12 else nn.LayerNorm
    other = (nn.ReLU, nn.GELU, nn.BatchNorm2d, nn.LayerNorm)
    block = blocks_of(step)[3]  # the second of the third stage
    assert calls(block, activation) == ACTIVATIONS[step]
    assert calls(blocks_of(step)[3], norm) == NORMS[step]
    assert calls(blocks_of(step)[3], other) == ACTIVATIONS[step] + NORMS[step]
    # a convolution that BatchNorm follows has no bias
    followed = {'pwconv1', 'dwconv', 'pwconv2'} if index < 11 else {'dwconv'}
    for name in ('pwconv1', 'dwconv', 'pwconv2'):
        has_bias = getattr(block, name).bias is not None
        assert has_bias == (index >= 12 or name not in followed), name


@pytest.mark.parametrize('step', STEPS)
def test_shapes_of_a_block_follow_the_paper(step):
    index = STEPS.index(step)
    block = blocks_of(step)[2]  # the first of the third stage: C = 32, and 16 in the second
    inside = 32 if index < 5 else 128
    before = 64 if index < 5 else 16
    if index == 13:
        before = 32
    out = 128 if index < 5 else 32
    shape = {name: tuple(getattr(block, name).weight.shape[:2]) for name in ('pwconv1', 'pwconv2')}
    assert shape == {'pwconv1': (inside, before), 'pwconv2': (out, inside)}
    spatial = block.dwconv
    kernel = 3 if index < 7 else 5 if index == 7 else 7
    assert spatial.kernel_size == (kernel, kernel)
    assert spatial.stride == ((1, 1) if index == 13 else (2, 2))
    assert spatial.in_channels == (inside if index < 6 else before)
    assert spatial.groups == (1 if index < 3 else spatial.in_channels)
    assert block.order[0] == ('pwconv1' if index < 6 else 'dwconv')
    assert bool(len(block.shortcut)) == (index < 13)
    # before the inverted bottleneck the first stage has a projection too
    assert bool(len(blocks_of(step)[0].shortcut)) == (index < 5)


@pytest.mark.parametrize('step', STEPS)
def test_the_stem_and_what_lies_between_stages(step):
    index = STEPS.index(step)
    model = Roadmap(step, **SMALL)
    stem, *between = model.downsample_layers
    kinds = [type(layer) for layer in stem]
    activation = nn.ReLU if index < 9 else nn.GELU
    expected = [nn.Conv2d, nn.BatchNorm2d, activation]
    if index < 2:
        expected.append(nn.MaxPool2d)
    if index >= 10:
        expected.pop()
    if index in (11, 12):
        expected = [nn.Conv2d]
    if index == 13:
        expected = [nn.Conv2d, LayerNorm2d]
    assert kinds == expected
    assert stem[0].kernel_size == ((7, 7) if index < 2 else (4, 4))
    separate = [] if index < 13 else [LayerNorm2d, nn.Conv2d]
    assert [[type(layer) for layer in layers] for layers in between] == [separate] * 3
    norms = [isinstance(getattr(model, f'norm{i}', None), LayerNorm2d) for i in range(4)]
    assert norms == [index >= 12] * 4


def test_layer_scale_is_the_last_steps_unless_given():
    assert [blocks_of(step)[0].gamma is not None for step in STEPS] == [False] * 13 + [True]
    scale = blocks_of('gelu', layer_scale_init_value=1e-6)[0].gamma
    assert torch.equal(scale, torch.full((8,), 1e-6))
    assert blocks_of(LAST, layer_scale_init_value=0)[0].gamma is None


def test_only_the_last_classifier_normalises_the_pooled_map():
    kinds = [type(RoadmapClassifier(Roadmap(step, **SMALL), num_classes=2).norm) for step in STEPS]
    assert kinds == [nn.Identity] * 13 + [nn.LayerNorm]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(step='kernel-9'), 'no step .*known: resnet, stage-ratio, .*separate-downsampling'),
        (dict(step='gelu', regime='large'), 'no regime .*known: tiny, base, atto'),
        (dict(step='gelu', depths=(1, 2, 3)), 'four positive integers'),
        (dict(step='gelu', width=0), 'width=0 must be a positive integer'),
        (dict(step='gelu', kernel=4), 'odd positive integer'),
        (dict(step='gelu', out_indices=(4,)), 'out_indices'),
        (dict(step='gelu', frozen_stages=5), 'frozen_stages'),
        (dict(step='gelu', drop_path_rate=2), 'drop_path_rate'),
        (dict(step='gelu', in_channels=0), 'in_channels'),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Roadmap(**arguments)
