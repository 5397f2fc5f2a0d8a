"""The residual block of every step of the roadmap, and the stem."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .steps import Design

# The convolutions of a block in the order of the forward pass. The spatial one has ConvNeXt's name from
# the start, though it is depthwise only from one step on.
_BOTTLENECK = ('pwconv1', 'dwconv', 'pwconv2')
_DEPTHWISE_FIRST = ('dwconv', 'pwconv1', 'pwconv2')
_NORM_BEHIND = {'dwconv': 'norm', 'pwconv1': 'norm1', 'pwconv2': 'norm2'}


class Block(nn.Module):
    """1x1, spatial and 1x1 convolution with norms and activations as the design has them; residual.

    Input ``(N, width_in, H, W)``, output ``(N, width_out, H / stride, W / stride)``, rounded up, where
    ``width_out`` is C, or 4 C in a bottleneck. The stride is the spatial convolution's. Where input and
    output differ in size, the shortcut is a 1x1 convolution with that stride.

    Args:
        design: Of the network.
        width_in: Channels of the input.
        width: C, the channels of the stage.
        stride: 1 or 2.
        drop_path_rate: Probability that stochastic depth drops a sample's branch.
        layer_scale_init_value: Initial layer scale; 0: none.
    """

    def __init__(
        self,
        design: Design,
        width_in: int,
        width: int,
        stride: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
    ) -> None:
        super().__init__()
        inside = 4 * width if design.inverted else width
        width_out = design.expansion * width
        self.order = _DEPTHWISE_FIRST if design.depthwise_first else _BOTTLENECK
        widths = {'pwconv1': (width_in, inside), 'dwconv': (inside, inside)}
        if design.depthwise_first:
            widths['dwconv'] = (width_in, width_in)
        widths['pwconv2'] = (inside, width_out)
        for name in self.order:
            has_norm = name == 'dwconv' or not design.fewer_norms
            kernel, step = (design.kernel, stride) if name == 'dwconv' else (1, 1)
            groups = widths[name][0] if name == 'dwconv' and design.depthwise else 1
            self.add_module(
                name, convolution(design, *widths[name], kernel, step, has_norm, groups)
            )
            norm = design.norm(widths[name][1]) if has_norm else nn.Identity()
            self.add_module(_NORM_BEHIND[name], norm)

        self.act = design.activation()
        self.activated = ('pwconv1',) if design.fewer_activations else self.order[:2]
        self.activates_sum = not design.fewer_activations
        self.gamma = (
            nn.Parameter(torch.full((width_out,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = StochasticDepth(drop_path_rate, 'row')
        self.shortcut = nn.Sequential()
        if stride > 1 or width_in != width_out:
            has_norm = not design.fewer_norms
            self.shortcut.append(convolution(design, width_in, width_out, 1, stride, has_norm))
            if has_norm:
                self.shortcut.append(design.norm(width_out))

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for name in self.order:
            branch = getattr(self, _NORM_BEHIND[name])(getattr(self, name)(branch))
            if name in self.activated:
                branch = self.act(branch)
        if self.gamma is not None:
            branch = self.gamma[:, None, None] * branch
        x = self.shortcut(x) + self.drop_path(branch)
        return self.act(x) if self.activates_sum else x


def stem(design: Design, in_channels: int) -> nn.Sequential:
    """The layers from an image to a map of stride 4."""
    size, stride = (4, 4) if design.patchify else (7, 2)
    has_norm = design.stem_norm()
    layers: list[nn.Module] = [
        convolution(design, in_channels, design.width, size, stride, has_norm)
    ]
    if has_norm:
        layers.append(design.norm(design.width))
    if not design.fewer_activations:
        layers.append(design.activation())
    if not design.patchify:
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    return nn.Sequential(*layers)


def downsampling(design: Design, width_in: int, width_out: int) -> nn.Sequential:
    """The layers between two stages: none before downsampling is separate."""
    if not design.separate_downsampling:
        return nn.Sequential()
    return nn.Sequential(
        design.norm(width_in), convolution(design, width_in, width_out, 2, 2, has_norm=False)
    )


def convolution(
    design: Design,
    width_in: int,
    width_out: int,
    size: int,
    stride: int,
    has_norm: bool,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution; it has a bias unless BatchNorm, which subtracts any bias, follows."""
    bias = not has_norm or design.layer_norm
    padding = size // 2 if size % 2 else 0
    return nn.Conv2d(width_in, width_out, size, stride, padding, groups=groups, bias=bias)
