"""Every step from ResNet to ConvNeXt as a backbone: four feature maps at strides 4, 8, 16 and 32.

Source: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545), section 2. The official code does
not contain the steps. Parameters have ConvNeXt's official names in every step, so that the last one loads
its checkpoints; torchvision's and timm's ResNets load into the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from backbones.arguments import (
    check_range,
    checked_channels,
    checked_frozen_stages,
    checked_out_indices,
)
from backbones.base import Backbone, can_synchronise
from backbones.convnext.block import NORM_EPS
from backbones.convnext.fused.conditions import prefers_channels_last
from backbones.convnext.model import STRIDES, init_as_official
from backbones.convnext.weight_names import Layout, translate_backbone
from backbones.errors import ConfigError
from backbones.layers import LayerNorm2d
from backbones.optim.layer_depth import Depth, convnext_layer_depth, convnext_stage_depth
from backbones.weights.timm_catalog import input_statistics
from backbones.weights.translation import Translation, by_own_names

from .block import Block, downsampling, stem
from .steps import STEPS, Design, design_of

# torchvision's and timm's ResNets, whose projection is a Sequential too.
RESNET_LAYOUT = Layout(
    'torchvision ResNet',
    (
        (r'\blayer([1-4])\.', lambda match: f'stages.{int(match[1]) - 1}.'),
        (r'(\bstages\.\d\.\d+\.)conv1\.', r'\1pwconv1.'),
        (r'(\bstages\.\d\.\d+\.)conv2\.', r'\1dwconv.'),
        (r'(\bstages\.\d\.\d+\.)conv3\.', r'\1pwconv2.'),
        (r'(\bstages\.\d\.\d+\.)bn1\.', r'\1norm1.'),
        (r'(\bstages\.\d\.\d+\.)bn2\.', r'\1norm.'),
        (r'(\bstages\.\d\.\d+\.)bn3\.', r'\1norm2.'),
        (r'(\bstages\.\d\.\d+\.)downsample\.', r'\1shortcut.'),
        (r'\bconv1\.', 'downsample_layers.0.0.'),
        (r'\bbn1\.', 'downsample_layers.0.1.'),
        (r'\bfc\.', 'head.'),
    ),
)
_IS_RESNET = re.compile(r'(.*\.)?layer1\.0\.conv1\.weight')


@MODELS.register_module()
class Roadmap(Backbone):
    """The network that the paper's design decisions up to ``step`` lead to.

    The first step is ResNet as in torchvision, with the stride in the 3x3 convolution; the last one is
    ConvNeXt.

    Args:
        step: One of :data:`.steps.STEPS`.
        regime: ``'tiny'`` (ResNet-50 to ConvNeXt-T), ``'base'`` (ResNet-200 to ConvNeXt-B) or ``'atto'``,
            for a CPU.
        depths: Blocks of each stage instead of the regime's.
        width: Channels C of the first stage instead of the regime's.
        kernel: Odd size of the spatial convolution instead of the step's: ``'kernel-7'`` with 9 and 11
            are the steps that the paper tried and did not take.
        out_indices: Stages whose feature maps are returned, in this order.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first. The
            paper trained all steps with it.
        layer_scale_init_value: Initial layer scale of every block; 0: none; None: 1.0 in the last step,
            as in the suite's ConvNeXt, none before. The paper has layer scale among the settings of its
            training, and does not say from which step on.
        output_norm: Whether every output gets a LayerNorm; None: if the step's own norm is LayerNorm.
            ResNet's detectors have none.
        frozen_stages: Number of stages, from the stem on, that do not train (-1 and 0: all train).
        norm_eval: Whether BatchNorm uses its running statistics, unchanged, in training mode too.
        sync_bn: Whether BatchNorm takes the statistics of all processes; see
            :func:`backbones.base.can_synchronise`.
        in_channels: Channels of the images; pretrained stems of RGB images are adapted
            (:mod:`backbones.weights.stem`).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a name of the table of weights,
            a path or a URL; see :func:`backbones.weights.load.load_pretrained`.
        contiguous_maps: As in :class:`backbones.Backbone`.

    Input ``(N, in_channels, H, W)``; output a tuple of ``(N, out_channels[i], H / out_strides[i],
    W / out_strides[i])``, rounded down or up.

    Raises:
        ConfigError: An argument has an impossible value; the message lists the possible ones.
    """

    num_stages = len(STRIDES)
    takes_any_size = True

    def __init__(
        self,
        step: str,
        regime: str = 'tiny',
        depths: Sequence[int] | None = None,
        width: int | None = None,
        kernel: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        output_norm: bool | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        sync_bn: bool = False,
        in_channels: int = 3,
        init_cfg: dict | None = None,
        contiguous_maps: bool = False,
    ) -> None:
        super().__init__(init_cfg, norm_eval, contiguous_maps)
        self.input_channels = checked_channels(in_channels)
        if self.input_channels == 3:
            self.input_mean, self.input_std = input_statistics(init_cfg)
        self.step = step
        self.design = _changed(design_of(step, regime), depths, width, kernel)
        self.out_indices = checked_out_indices(out_indices)
        check_range('drop_path_rate', drop_path_rate, 0, 1)
        if layer_scale_init_value is None:
            layer_scale_init_value = float(step == STEPS[-1])
        check_range('layer_scale_init_value', layer_scale_init_value, 0, float('inf'))
        self.frozen_stages = checked_frozen_stages(frozen_stages, self.num_stages)
        self.output_norm = self.design.layer_norm if output_norm is None else output_norm

        self.downsample_layers = nn.ModuleList([stem(self.design, self.input_channels)])
        self.stages = nn.ModuleList()
        blocks = sum(self.design.depths)
        rates = iter(torch.linspace(0, drop_path_rate, blocks, device='cpu').tolist())
        width_in, out_widths = self.design.width, []
        for i, depth in enumerate(self.design.depths):
            stage_width = self.design.width * 2**i
            if i:
                self.downsample_layers.append(downsampling(self.design, width_in, stage_width))
            stride = 2 if i and not self.design.separate_downsampling else 1
            if self.design.separate_downsampling:
                width_in = stage_width
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(
                    Block(
                        self.design,
                        width_in,
                        stage_width,
                        stride,
                        next(rates),
                        layer_scale_init_value,
                    )
                )
                width_in, stride = self.design.expansion * stage_width, 1
            self.stages.append(stage)
            out_widths.append(width_in)
        self.apply(init_as_official)
        if sync_bn and can_synchronise():
            for part in (self.downsample_layers, self.stages):
                nn.SyncBatchNorm.convert_sync_batchnorm(part)
        if self.output_norm:
            for i in sorted(self.out_indices):
                self.add_module(f'norm{i}', LayerNorm2d(out_widths[i], eps=NORM_EPS))
        self.out_channels = tuple(out_widths[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        for module in self.frozen_modules():
            module.eval().requires_grad_(False)

    @property
    def recipe_frozen_stages(self) -> int:  # type: ignore[override]
        """With BatchNorm, pretrained detectors freeze the stem and the first stage, as ResNet's do."""
        return -1 if self.design.layer_norm else 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if prefers_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last)
        maps = {}
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = stage(downsample(x))
            if i in self.out_indices:
                maps[i] = getattr(self, f'norm{i}')(x) if self.output_norm else x
        return tuple(maps[i] for i in self.out_indices)

    def blocks(self) -> Iterable[nn.Module]:
        """The blocks of all stages."""
        for stage in self.stages:
            yield from stage.children()

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        return translate_step(self.step, state, self.state_dict())

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Depth:
        """ConvNeXt's layer ids in every step, so that steps differ in their design alone; see
        :func:`backbones.optim.layer_depth.convnext_layer_depth`."""
        return convnext_layer_depth(param_name.removeprefix(prefix), self.design.depths[2])

    def get_stage_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Likewise by stage; see :func:`backbones.optim.layer_depth.convnext_stage_depth`."""
        return convnext_stage_depth(param_name.removeprefix(prefix), self.design.depths[2])

    def frozen_modules(self) -> list[nn.Module]:
        count = max(self.frozen_stages, 0)
        return [*self.downsample_layers[:count], *self.stages[:count]]


def translate_step(
    step: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Translation:
    """A checkpoint under the names of a network of ``step`` with the tensors ``own``.

    The last step takes every layout of ConvNeXt, the others their own names and those of torchvision's
    and timm's ResNets. A head that the network does not have is dropped.
    """
    if step == STEPS[-1]:
        return translate_backbone(state, own)
    if not any(map(_IS_RESNET.fullmatch, state)):
        return by_own_names(state, own)
    renamed = {RESNET_LAYOUT.official_name(key) or key: value for key, value in state.items()}
    return replace(by_own_names(renamed, own), layout=RESNET_LAYOUT.name)


def _changed(
    design: Design, depths: Sequence[int] | None, width: int | None, kernel: int | None
) -> Design:
    if depths is not None:
        if len(depths) != 4 or not all(isinstance(n, int) and n > 0 for n in depths):
            raise ConfigError(f'depths={depths!r} must be four positive integers.')
        design = replace(design, depths=tuple(depths))
    if width is not None:
        if not isinstance(width, int) or width < 1:
            raise ConfigError(f'width={width!r} must be a positive integer.')
        design = replace(design, width=width)
    if kernel is not None:
        if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f'kernel={kernel!r} must be an odd positive integer.')
        design = replace(design, kernel=kernel)
    return design
