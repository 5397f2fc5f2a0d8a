"""Every check passes for a right backbone and fails for one that breaks just this."""

import re

import pytest
import torch
from torch import nn

from downstream.contract import check_backbone, gmacs
from downstream.contract.saved_memory import saved_activation_bytes
from tests.backbones.timm_backbone.test_families import FAMILIES
from tests.conftest import ROOT
from tests.support.plain import FourStages

pytest_plugins = ['downstream.pytest_plugin']
ME = 'tests.downstream.contract.test_checks'


class Good(FourStages):
    """The smallest backbone that fulfils the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels, self.out_strides = (4, 8, 16, 32), (4, 8, 16, 32)
        self.stages = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else c // 2, c, 4 if i == 0 else 2, 4 if i == 0 else 2)
            for i, c in enumerate(self.out_channels)
        )


class StatesNothing(Good):
    def __init__(self) -> None:
        super().__init__()
        del self.out_channels, self.out_strides


class FixesItsType(Good):
    def forward(self, x):
        return tuple(m.double() for m in super().forward(x))


class MixesImages(Good):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class NeverEvaluates(Good):
    def train(self, mode=True):
        return super().train(True)


class CountsEvaluations(Good):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('count', torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


class AlwaysDropsOut(Good):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


class HasUnusedLayers(Good):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 10)


class DeepStem(Good):
    def get_layer_depth(self, name, prefix=''):
        return 3 - int(name.removeprefix(prefix).split('.')[1]), 5


class NoDepth(Good):
    def get_layer_depth(self, name, prefix=''):
        return 7


class HasAnUntrainedScale(Good):
    """A parameter that is defined first, lies deepest, and never trains."""

    def __init__(self) -> None:
        super().__init__()
        stages = self.stages
        del self.stages
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.stages = stages

    def get_layer_depth(self, name, prefix=''):
        name = name.removeprefix(prefix)
        return 3 if name == 'scale' else int(name.split('.')[1]), 5


class Overflows(Good):
    def forward(self, x):
        return tuple((1e4 * m) ** 2 / 1e8 for m in super().forward(x))


class Views(Good):
    def forward(self, x):
        return super().forward(x.view(x.shape[0], -1).view(x.shape))


class Forgets(Good):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.randn(())

    def forward(self, x):
        return super().forward(x + self.offset)


class BranchesOnValues(Good):
    def forward(self, x):
        if x.sum().item() > 0:
            x = x + 1
        return super().forward(x)


class BranchesOnSizes(Good):
    def forward(self, x):
        return super().forward(x + 1 if x.shape[-1] > 140 else x)


class BranchesOnTheBatch(Good):
    def forward(self, x):
        return super().forward(x if len(x) == 1 else x * 1)


class PoolsPairs(Good):
    """A trace holds for as many cells, odd or even, as there were: the last pair may be padding alone."""

    def forward(self, x):
        pooled = nn.functional.avg_pool2d(x, 2, padding=1, ceil_mode=True)
        return super().forward(x + nn.functional.interpolate(pooled, x.shape[-2:]))


class KnowsOneSize(Good):
    """Its positions are a table of one size, resized for others by numbers of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self, x):
        size = [int(side) for side in x.shape[-2:]]
        return super().forward(x + nn.functional.interpolate(self.table, size, mode='bilinear'))


class RaggedAtOddSizes(Good):
    def forward(self, x):
        assert x.shape[-1] % 256 == x.shape[-2] % 256 == 0 or x.shape[-2:] == (128, 192)
        return super().forward(x)


class WindowsOf224(Good):
    size_divisor = 224

    def forward(self, x):
        *maps, last = super().forward(x)
        batch, channels, height, width = last.shape
        windows = last.reshape(batch, channels, height // 7, 7, width // 7, 7)
        return (*maps, (windows - windows.mean((3, 5), keepdim=True)).reshape(last.shape))


def failed(cls, **options) -> dict[str, str]:
    findings = list(check_backbone(cls, speed=False, **options))
    return {finding.check: str(finding) for finding in findings if finding.passed is False}


def test_a_good_one_passes_everything(check_backbone):
    findings = check_backbone(f'{ME}:Good')
    titles = [finding.check for finding in findings]
    assert titles[0] == 'builds'
    assert titles[-1] == 'GMACs'
    assert len(set(titles)) == len(titles)
    assert not failed(Good)


@pytest.mark.parametrize(
    'name', ['convnextv2-atto', 'timm:resnet18']
)  # convnext-atto: by the tool below
def test_ours_fulfil_it(check_backbone, name):
    check_backbone(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['swin-tiny', 'resnet-50', 'resnext101-32x4d', 'timm:vit_tiny_patch16_224']
)
def test_the_larger_ones_fulfil_it(check_backbone, name):
    check_backbone(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_of_timm_fulfils_it(check_backbone, name):
    check_backbone(f'timm:{name}')


@pytest.mark.parametrize(
    ('cls', 'check', 'words'),
    [
        (FixesItsType, 'multiples of 32', 'torch.float64 for an image of torch.float32'),
        (MixesImages, 'batch', 'alone and in a batch'),
        (NeverEvaluates, 'train and eval', 'training mode'),
        (CountsEvaluations, 'train and eval', 'evaluation changes count'),
        (AlwaysDropsOut, 'train and eval', 'two passes in evaluation mode differ'),
        (HasUnusedLayers, 'gradients', 'head.weight, head.bias'),
        (DeepStem, 'parameter depths', 'the first parameter has depth 3'),
        (NoDepth, 'parameter depths', 'returns 7'),
        (Overflows, 'float16', 'infinite'),
        (Views, 'channels_last', 'view'),
        (Forgets, 'checkpoint', 'a reloaded one differs'),
        (BranchesOnValues, 'torch.compile', 'no single graph'),
        (BranchesOnValues, 'torch.export', 'cannot be exported'),
        (RaggedAtOddSizes, 'multiples of 32', 'AssertionError'),
    ],
)
def test_what_is_broken_is_named(cls, check, words):
    findings = check_backbone(cls, speed=False)  # one after another: those after it are not made
    found = next(finding for finding in findings if finding.check == check)
    assert found.passed is False
    assert words in str(found)
    assert len(str(found).splitlines()) == 2  # the advice


@pytest.mark.parametrize(
    ('cls', 'words'),
    [
        (Good, 'pictures of any size and number; the same maps at 97x75 and 229x287'),
        (WindowsOf224, 'pictures of any size and number'),
        (BranchesOnTheBatch, 'pictures of any size, segmenters with --batch 1: '),
        (PoolsPairs, 'pictures of any size in detectors, which pad to multiples of 32; in segm'),
        (BranchesOnSizes, 'for fixed sizes only, with --size H W --batch 1: what was traced fails'),
        (KnowsOneSize, 'for fixed sizes only, with --size H W --batch 1: '),
        (BranchesOnValues, 'not possible: '),
    ],
)
def test_what_can_be_exported_is_said_and_no_failure(cls, words):
    found = next(
        finding
        for finding in check_backbone(cls, speed=False)
        if finding.check == 'tools/export.py'
    )
    assert found.result.startswith(words)
    assert found.passed is (True if 'any size and number' in words else None)
    assert len(str(found).splitlines()) == 1


def test_outputs_that_are_not_stated_are_a_note():
    """docs/backbones.md: they are read off a forward pass."""
    found = {finding.check: finding for finding in check_backbone(StatesNothing, speed=False)}
    assert found['states its outputs'].passed is None
    assert 'no out_channels and no out_strides' in found['states its outputs'].result
    assert not failed(StatesNothing)


def test_depths_of_what_never_trains_do_not_count(check_backbone):
    check_backbone(f'{ME}:HasAnUntrainedScale')


def test_windows_of_a_stated_size_pass(check_backbone):
    """A net with windows of 7 at stride 32 states 224, and every check uses multiples of it."""
    check_backbone(f'{ME}:WindowsOf224')


def test_the_fixture_fails_the_test(check_backbone):
    with pytest.raises(AssertionError, match=r'head\.weight'):
        check_backbone(HasUnusedLayers)


def test_the_tool_says_what_passed(tool):
    result = tool('check_backbone', 'convnext-atto')
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    notes = [line for line in lines if line.startswith(('FAIL', '  - '))]
    assert [line.split()[1] for line in notes] == ['GMACs', 'beside']
    assert 'x its time' in result.out
    assert 'fulfils the contract' in lines[-1]


def test_the_tool_fails_with_what_failed(tool, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = tool('check_backbone', f'{ME}:HasUnusedLayers', '--no-speed')
    assert result.code == 2
    assert 'FAIL  gradients' in result.out
    assert re.search(r'in 1 of \d+ checks: gradients\.$', result.err.strip())
    result = tool('check_backbone', 'convnext-tini')
    assert result.code == 2
    assert 'Did you mean convnext-tiny' in result.out
    assert 'in 1 of 1 checks: builds.' in result.err


def test_the_tool_hands_arguments_on(tool):
    result = tool('check_backbone', 'ConvNeXt', '--args', 'arch=femto', '--no-speed')
    assert result.code == 0, result.err
    assert '48/4' in result.out


def test_costs_are_those_of_the_paper():
    from backbones import ConvNeXt

    with torch.device('meta'):
        assert gmacs(ConvNeXt('tiny'), (3, 224, 224)) == pytest.approx(4.457, rel=2e-3)


def test_activations_are_counted_once():
    layer = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    image = torch.zeros(4, 8)
    assert saved_activation_bytes(layer, lambda: layer(image)) == 2 * 4 * 8 * 4
    meta = layer.to('meta')
    assert saved_activation_bytes(meta, lambda: meta(image.to('meta'))) == 2 * 4 * 8 * 4
    # the image, and ReLU's output, which two layers keep
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    rows = torch.randn(5, 4)
    assert saved_activation_bytes(layers, lambda: layers(rows)) == 4 * (5 * 4 + 5 * 8)
