"""The design decisions that turn a ResNet into a ConvNeXt, in the paper's order.

Source: Liu et al. 2022 ("A ConvNet for the 2020s"), section 2, tables 10 and 11. What the text leaves
open is decided here and in :mod:`.block`, and reproduces the paper's multiply-adds:

- A step keeps every decision of the steps before it.
- Until step ``fewer-activations`` a norm and an activation follow every convolution, the stem's too, and
  the last activation of a block follows the sum, as in ResNet.
- ``fewer-activations`` leaves one activation in a block, between its 1x1 convolutions, and none behind
  the stem and the sum.
- ``fewer-norms`` leaves one norm in a block, behind its depthwise convolution, and none behind the stem
  and the projections: ``separate-downsampling`` adds the stem's again.
- Layer scale and the initial values are those of the paper's training settings (table 5), not of a step:
  :class:`.model.Roadmap` has an argument for the former.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from backbones.convnext.block import NORM_EPS
from backbones.errors import ConfigError
from backbones.layers import LayerNorm2d

Depths = tuple[int, ...]


@dataclass(frozen=True)
class Regime:
    """Sizes of a network along the roadmap: blocks by stage, channels of the first one.

    Attributes:
        resnet_depths: Until the stages get the ratio 1:1:3:1 (in larger networks 1:1:9:1).
        resnet_width: Likewise.
        depths: From then on.
        narrow_width: From then on, until the network is widened.
        width: From then on.
    """

    resnet_depths: Depths
    resnet_width: int
    depths: Depths
    narrow_width: int
    width: int


# tiny and base are the paper's: ResNet-50 to ConvNeXt-T, ResNet-200 to ConvNeXt-B. atto is this suite's,
# for a CPU: it ends in ConvNeXt's atto and starts from two thirds of its width and from ResNet-50's ratio
# 3:4:6:3 in as many fewer blocks as ResNet-50 has fewer than ConvNeXt-T.
REGIMES = {
    'tiny': Regime((3, 4, 6, 3), 64, (3, 3, 9, 3), 64, 96),
    'base': Regime((3, 24, 36, 3), 64, (3, 3, 27, 3), 84, 128),
    'atto': Regime((2, 3, 4, 2), 27, (2, 2, 6, 2), 27, 40),
}


@dataclass(frozen=True)
class Design:
    """A network of the roadmap; the defaults are ResNet's.

    Attributes:
        depths: Blocks of each stage.
        width: Channels of the first stage; every further stage has twice as many.
        patchify: Whether the stem is a 4x4 convolution with stride 4 instead of a 7x7 one with stride 2
            and a max pooling.
        kernel: Of the spatial convolution of a block.
        depthwise: Whether that convolution is depthwise.
        inverted: Whether a block is wide inside (4 C) and narrow outside (C), instead of the reverse.
        depthwise_first: Whether the depthwise convolution comes before both 1x1 convolutions.
        activation: Makes the activations.
        fewer_activations: Whether a block has one, between its 1x1 convolutions.
        fewer_norms: Whether a block has one, behind its depthwise convolution.
        norm: Makes a norm of so many channels.
        layer_norm: Whether that norm is LayerNorm instead of BatchNorm.
        separate_downsampling: Whether a norm and a 2x2 convolution with stride 2 lie between stages,
            instead of a stride and a projection shortcut in the first block of a stage.
    """

    depths: Depths
    width: int
    patchify: bool = False
    kernel: int = 3
    depthwise: bool = False
    inverted: bool = False
    depthwise_first: bool = False
    activation: Callable[[], nn.Module] = nn.ReLU
    fewer_activations: bool = False
    fewer_norms: bool = False
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    layer_norm: bool = False
    separate_downsampling: bool = False

    @property
    def expansion(self) -> int:
        """Channels behind a block of a stage, divided by :attr:`width` times 2 ** stage."""
        return 1 if self.inverted else 4

    def stem_norm(self) -> bool:
        """Whether a norm follows the stem's convolution."""
        return not self.fewer_norms or self.separate_downsampling


def decisions(regime: Regime) -> dict[str, dict]:
    """What each step changes in the design of the step before it."""
    return {
        # 2.1, the starting point
        'resnet': {'depths': regime.resnet_depths, 'width': regime.resnet_width},
        # 2.2, macro design
        'stage-ratio': {'depths': regime.depths, 'width': regime.narrow_width},
        'patchify': {'patchify': True},
        # 2.3, ResNeXt-ify
        'depthwise': {'depthwise': True},
        'width': {'width': regime.width},
        # 2.4, inverted bottleneck
        'inverted-bottleneck': {'inverted': True},
        # 2.5, large kernels
        'depthwise-first': {'depthwise_first': True},
        'kernel-5': {'kernel': 5},
        'kernel-7': {'kernel': 7},
        # 2.6, micro design
        'gelu': {'activation': nn.GELU},
        'fewer-activations': {'fewer_activations': True},
        'fewer-norms': {'fewer_norms': True},
        'layernorm': {'norm': partial(LayerNorm2d, eps=NORM_EPS), 'layer_norm': True},
        'separate-downsampling': {'separate_downsampling': True},
    }


STEPS = tuple(decisions(REGIMES['tiny']))


def design_of(step: str, regime: str = 'tiny') -> Design:
    """The design that the decisions up to ``step`` lead to.

    Raises:
        ConfigError: There is no such step or regime; the message lists them.
    """
    for what, value, known in (('step', step, STEPS), ('regime', regime, REGIMES)):
        if value not in known:
            raise ConfigError(f'Roadmap has no {what} {value!r}; known: {", ".join(known)}.')
    taken = decisions(REGIMES[regime])
    design = Design(**taken['resnet'])
    for name in STEPS[1 : STEPS.index(step) + 1]:
        design = replace(design, **taken[name])
    return design
