"""Forms of operators for every size compute what the operators do, and put no condition on sizes."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones.resnet import BasicBlock
from mmseg.models.utils import ResLayer
from torch import nn

from backbones.multiples import crop_to_stride, pad_to_multiple
from backbones.timm_backbone.swin import PaddedSwinBlock
from downstream.exporting import write
from downstream.exporting.files import open_exported
from downstream.exporting.graph.any_size import AnySize
from downstream.exporting.trace import Shape, trace

MAPS = [(7, 5), (1, 1), (16, 3), (13, 40)]


def in_onnx(program, net, path, batch=1):
    """What a program computes as a file of ONNX."""
    any_size = dict(batch=batch, height=None, width=None, channels=3, dtype='uint8')
    facts = {'format': 1, 'task': 'segmentation', 'input': any_size}
    write.write(program, net, facts, 'onnx', path, Shape().example(96, 128))
    file = open_exported(path)
    return lambda image: torch.from_numpy(file.run(image.numpy())['map'])


@pytest.mark.parametrize('size', MAPS)
def test_pooling_by_matrices_is_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for bins in (1, 2, 3, 6, (2, None), (3, 1)):
        expected = F.adaptive_avg_pool2d(x, bins)
        with AnySize():
            found = F.adaptive_avg_pool2d(x, bins)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('size', MAPS)
def test_pooling_of_single_cells_is_a_selection(size):
    x = torch.randn(2, 3, *size)
    for options in (dict(stride=2), dict(stride=(2, 1)), dict(stride=3, padding=0)):
        expected = F.max_pool2d(x, 1, **options)
        with AnySize():
            found = F.max_pool2d(x, 1, **options)
        assert torch.equal(found, expected)
        assert found.is_contiguous()


def test_other_poolings_stay():
    x = torch.randn(1, 2, 9, 8)
    for options in (dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1)):
        expected = F.max_pool2d(x, **options)
        with AnySize():
            assert torch.equal(F.max_pool2d(x, **options), expected)


class _Net(nn.Module):
    """What put conditions on sizes: a norm over channels, a convolution behind it, a coarser level."""

    outputs = ('rows',)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 32, 32)
        self.norm = nn.LayerNorm(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, image):
        with AnySize():
            x = image.permute(0, 3, 1, 2).float()
            x = F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))
            x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return F.max_pool2d(self.depthwise(x), 1, stride=2)


def test_a_trace_takes_maps_of_every_size():
    net = _Net().eval()
    program = trace(net, Shape(), 32).module()
    for height in (1, 32, 33, 70, 129):
        for width in (1, 64, 65, 160):
            image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
            with torch.no_grad():
                torch.testing.assert_close(program(image), net(image))


class _Pools(nn.Module):
    """Pooling as a ResNet has it, at sizes that nothing has padded."""

    outputs = ('maps',)

    def pooled(self, x):
        x = F.max_pool2d(x, 3, 2, 1)
        x = F.max_pool2d(x, 2, (1, 2), ceil_mode=True)
        return F.max_pool2d(x, (3, 2), (3, 4), (0, 1), dilation=2)

    def forward(self, image):
        with AnySize():
            return self.pooled(image.permute(0, 3, 1, 2).float())


def test_a_trace_pools_maps_of_every_size():
    net = _Pools()
    program = trace(net, Shape(), 32).module()
    for height in range(33, 39):
        for width in range(40, 46):
            image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
            expected = net.pooled(image.permute(0, 3, 1, 2).float())
            assert torch.equal(program(image), expected)


AVERAGES = [
    dict(kernel_size=2, ceil_mode=True, count_include_pad=False),
    dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
    dict(kernel_size=3, stride=2, padding=1, count_include_pad=False),
    dict(kernel_size=5, stride=3, padding=2, ceil_mode=True, count_include_pad=False),
    dict(kernel_size=3, stride=4, divisor_override=5),
]


class _Averages(nn.Module):
    """Averages as the stems and shortcuts of ResNet-D, Res2Net and ResNeSt take them."""

    outputs = tuple(f'maps{number}' for number in range(len(AVERAGES)))

    def pooled(self, x):
        return tuple(F.avg_pool2d(x, **options) for options in AVERAGES)

    def forward(self, image):
        with AnySize():
            return self.pooled(image.permute(0, 3, 1, 2).float())


def test_a_trace_averages_windows_of_every_size():
    """Windows that reach over the border are averages of the cells that there are."""
    net = _Averages()
    program = trace(net, Shape(), 32).module()
    for height in (4, 33, 34, 35, 36):
        for width in (7, 41, 42):
            image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
            expected = net.pooled(image.permute(0, 3, 1, 2).float())
            for found, one in zip(program(image), expected, strict=True):
                torch.testing.assert_close(found, one)


def test_averages_of_the_last_window_that_may_be_none_stay():
    """A window that would begin behind the map is left out: that depends on the size."""
    options = dict(kernel_size=2, stride=2, padding=1, ceil_mode=True)
    for size in (5, 6, 7):
        x = torch.randn(1, 2, size, 8)
        expected = F.avg_pool2d(x, **options)
        with AnySize():
            assert torch.equal(F.avg_pool2d(x, **options), expected)


class _Shortcut(nn.Module):
    """A block of a ResNet-D, whose shortcut averages what the convolution beside it has strides for."""

    outputs = ('map',)

    def __init__(self):
        super().__init__()
        self.layer = ResLayer(BasicBlock, 3, 4, 1, stride=2, avg_down=True)

    def forward(self, image):
        with AnySize():
            return self.layer(image.permute(0, 3, 1, 2).float() / 100)


def test_a_shortcut_that_averages(tmp_path):
    net = _Shortcut().eval()
    program = trace(net, Shape(batch=None), 32)
    taken = [program.module()]
    if all(map(importlib.util.find_spec, write.FORMATS['onnx'][1])):
        taken.append(in_onnx(program, net, tmp_path / 'shortcut.onnx', batch=None))
    for size in ((1, 33, 97), (2, 64, 65), (3, 34, 2), (1, 1, 1)):
        image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = net(image)
            for run in taken:
                torch.testing.assert_close(run(image), expected)


class _Tokens(nn.Module):
    """The map of a ViT: its tokens without that of the class, whose memory has gaps."""

    outputs = ('map',)

    def forward(self, image):
        with AnySize():
            maps = F.avg_pool2d(image.permute(0, 3, 1, 2).float(), 16)
            tokens = F.pad(maps.flatten(2).transpose(1, 2), (0, 0, 1, 0))[:, 1:]
            return tokens.reshape(image.shape[0], *maps.shape[2:], -1).permute(0, 3, 1, 2)


def test_a_trace_reshapes_slices_of_any_number_of_pictures():
    net = _Tokens()
    program = trace(net, Shape(batch=None), 32).module()
    for size in ((1, 64, 48), (1, 16, 16), (3, 33, 97)):
        image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
        assert torch.equal(program(image), net(image))


class _Rows(nn.Module):
    """A head with BatchNorm on as many things as there are in an image."""

    outputs = ('features',)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        for tensor in (*self.norm.parameters(), self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2)

    def forward(self, image):
        with AnySize():
            chosen = (image[0, :, 0, 0] > 100).nonzero().squeeze(1)
            things = image[0][chosen].permute(0, 2, 1)[..., None].float()
            return self.norm(self.conv(things))


def test_a_trace_takes_any_number_of_things():
    net = _Rows().eval()
    program = trace(net, Shape(), 32).module()
    for count in (0, 1, 7):
        image = torch.zeros(1, 9, 16, 3, dtype=torch.uint8)
        image[:, :count] = torch.randint(101, 256, (1, count, 16, 3))
        with torch.no_grad():
            found, expected = program(image), net(image)
        assert len(found) == count
        torch.testing.assert_close(found, expected)


class _Halved(nn.Module):
    """A map of stride 2 by a pooling that takes multiples of 4 alone."""

    outputs = ('map',)

    def __init__(self, repeats):
        super().__init__()
        self.repeats = repeats

    def forward(self, image):
        x = image.permute(0, 3, 1, 2).float()
        x = x.repeat_interleave(self.repeats, 2).repeat_interleave(self.repeats, 3)
        height, width = x.shape[2:]
        padded = pad_to_multiple(x, 4)
        y = F.max_pool2d(padded, 2)
        return y if padded is x else crop_to_stride(y, height, width, 2)


def test_a_trace_of_multiples_pads_other_sizes():
    net = _Halved(1)
    program = trace(net, Shape(), 32).module()
    for size in ((16, 24), (5, 6), (7, 32), (32, 33)):
        image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
        assert torch.equal(program(image), net(image))


def test_what_can_only_be_a_multiple_is_not_padded():
    program = trace(_Halved(4), Shape(), 32)
    assert not any('pad' in str(node.target) for node in program.graph.nodes)


class _Windows(nn.Module):
    """Shifted windows of a Swin Transformer, with borders that fill none."""

    outputs = ('map',)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        options = dict(always_partition=True, dynamic_mask=True)
        self.block = PaddedSwinBlock(8, (8, 8), 2, window_size=7, shift_size=3, **options)
        nn.init.normal_(self.block.attn.relative_position_bias_table)

    def forward(self, image):
        with AnySize():
            x = self.stem(image.permute(0, 3, 1, 2).float() / 50)
            return self.block(x.permute(0, 2, 3, 1))


def test_windows_of_every_size(tmp_path):
    """ONNX divides integers towards 0, Python downwards."""
    for package in write.FORMATS['onnx'][1]:
        pytest.importorskip(package)
    net = _Windows().eval()
    run = in_onnx(trace(net, Shape(), 32), net, tmp_path / 'windows.onnx')
    for height, width in ((96, 128), (112, 112), (33, 97), (28, 8), (150, 217)):
        image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(run(image), net(image), atol=1e-4, rtol=0)
