"""Forms of operators for every size compute what the operators do, and put no condition on sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from downstream.exporting import write
from downstream.exporting.any_size import AnySize

MAPS = [(7, 5), (1, 1), (16, 3), (13, 40)]


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
    program = write.trace(net, write.Shape(), 32).module()
    for height in (1, 32, 33, 70, 129):
        for width in (1, 64, 65, 160):
            image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
            with torch.no_grad():
                torch.testing.assert_close(program(image), net(image))


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
    program = write.trace(net, write.Shape(), 32).module()
    for count in (0, 1, 7):
        image = torch.zeros(1, 9, 16, 3, dtype=torch.uint8)
        image[:, :count] = torch.randint(101, 256, (1, count, 16, 3))
        with torch.no_grad():
            found, expected = program(image), net(image)
        assert len(found) == count
        torch.testing.assert_close(found, expected)
