"""Isotropic ConvNeXts: all blocks at stride 16, like a plain ViT, and a feature pyramid made from them.

Source: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545), section 3.3. The
official code calls the blocks ``blocks``, which is a method of backbones here; files are translated.
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
from backbones.base import Backbone
from backbones.errors import ConfigError
from backbones.layers import LayerNorm2d
from backbones.multiples import crop_to_stride, pad_to_multiple
from backbones.optim.layer_depth import Depth, folded
from backbones.pyramid import pyramid_level
from backbones.weights.timm_catalog import input_statistics
from backbones.weights.translation import Translation, by_own_names

from .archs import ISOTROPIC_ARCHS
from .block import NORM_EPS
from .fused import FusedBlock, Stage
from .fused.conditions import prefers_channels_last
from .fused.switch import fused_switch
from .model import STRIDES, init_as_official

_STRIDE = 16
_OFFICIAL_BLOCK = re.compile(r'\bblocks\.(?=\d)')
_BLOCK = re.compile(r'stage\.(\d+)\.')


@MODELS.register_module()
class ConvNeXtIsotropic(Backbone):
    """Blocks of one width at stride 16, and a feature pyramid as ViTDet's (:mod:`backbones.pyramid`).

    The maps of strides 4, 8 and 32 are made from the last block's, and each of the four gets a LayerNorm:
    what plain ViTs of timm get in this suite.

    Args:
        arch: A size of :attr:`archs`.
        out_indices: Which of the four maps are returned, in this order.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale_init_value: Initial layer scale; 0: none; None: 1.0 in large, none in the others, as
            in the released weights.
        frozen_stages: Whether the network without the pyramid trains (-1 and 0) or not (1).
        with_cp: Recompute each block in the backward pass to save memory.
        in_channels: Channels of the images; pretrained stems of RGB images are adapted
            (:mod:`backbones.weights.stem`).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a name of the table of weights,
            a path or a URL; see :func:`backbones.weights.load.load_pretrained`.
        contiguous_maps: As in :class:`backbones.Backbone`.

    Input ``(N, in_channels, H, W)``, padded to multiples of 16; output a tuple of ``(N, out_channels[i],
    H / out_strides[i], W / out_strides[i])``, rounded up.

    Raises:
        ConfigError: An argument, or ``CONVNEXT_FUSED`` in the environment, has an impossible value.
    """

    family = 'convnext-iso'
    archs = ISOTROPIC_ARCHS
    num_stages = 1
    takes_any_size = True

    def __init__(
        self,
        arch: str = 'small',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        in_channels: int = 3,
        init_cfg: dict | None = None,
        contiguous_maps: bool = False,
    ) -> None:
        super().__init__(init_cfg, contiguous_maps=contiguous_maps)
        self.input_channels = checked_channels(in_channels)
        if self.input_channels == 3:
            self.input_mean, self.input_std = input_statistics(init_cfg)
        fused_switch()  # an impossible value is an error here, and not in the first step
        if arch not in self.archs:
            raise ConfigError(
                f'ConvNeXtIsotropic has no arch {arch!r}; known: {", ".join(self.archs)}.'
            )
        self.arch = self.archs[arch]
        if layer_scale_init_value is None:
            layer_scale_init_value = float(self.arch.layer_scale)
        check_range('layer_scale_init_value', layer_scale_init_value, 0, float('inf'))
        check_range('drop_path_rate', drop_path_rate, 0, 1)
        self.out_indices = checked_out_indices(out_indices)
        self.frozen_stages = checked_frozen_stages(frozen_stages, self.num_stages)

        depth, dim = self.arch.depth, self.arch.dim
        self.stem = nn.Conv2d(self.input_channels, dim, kernel_size=_STRIDE, stride=_STRIDE)
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.stage = Stage(
            *(FusedBlock(dim, rate, layer_scale_init_value, use_grn=False) for rate in rates),
            with_cp=with_cp,
        )
        self.apply(init_as_official)
        self.pyramid = nn.ModuleDict()
        channels = []
        for i in self.out_indices:
            level, width = pyramid_level(dim, _STRIDE, STRIDES[i])
            if level is not None:
                self.pyramid[str(i)] = level
            self.add_module(f'norm{i}', LayerNorm2d(width, eps=NORM_EPS))
            channels.append(width)
        self.out_channels = tuple(channels)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        for module in self.frozen_modules():
            module.eval().requires_grad_(False)

    @property
    def added_modules(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pyramid's layers and the output norms, which no released file contains."""
        return ('pyramid', *(f'norm{i}' for i in self.out_indices))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, _STRIDE)
        crops = padded is not x
        if prefers_channels_last(padded):
            padded = padded.contiguous(memory_format=torch.channels_last)
        x = self.stage(self.stem(padded))
        maps = []
        for i in self.out_indices:
            y = self.pyramid[str(i)](x) if str(i) in self.pyramid else x
            if crops:
                y = crop_to_stride(y, height, width, STRIDES[i])
            maps.append(getattr(self, f'norm{i}')(y))
        return tuple(maps)

    def blocks(self) -> Iterable[nn.Module]:
        """The blocks at stride 16."""
        yield from self.stage.children()

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        return translate_isotropic(state, self.state_dict())

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        return describe_isotropic(tensors)

    def layer_depths(self) -> Mapping[str, Depth]:
        """A layer per block, in at most 12 groups between the stem and the heads, to which pyramid and
        norms belong."""
        if self._layer_depths is None:
            numbers = {}
            for name, _ in self.named_parameters():
                block = _BLOCK.match(name)
                if block or name.startswith('stem.'):
                    numbers[name] = int(block[1]) + 1 if block else 0
            self._layer_depths = folded(numbers)
        return self._layer_depths

    def frozen_modules(self) -> list[nn.Module]:
        return [self.stem, self.stage] if self.frozen_stages > 0 else []


def translate_isotropic(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Translation:
    """Official names as those of a network with the tensors ``own``; a final norm and a head that it does
    not have are dropped."""
    renamed = {_OFFICIAL_BLOCK.sub('stage.', key): value for key, value in state.items()}
    found = by_own_names(renamed, own)
    unneeded = [key for key in found.foreign if key.startswith(f'{found.prefix}norm.')]
    return replace(
        found,
        layout='official',
        dropped=(*found.dropped, *unneeded),
        foreign=tuple(key for key in found.foreign if key not in unneeded),
    )


def describe_isotropic(tensors: Mapping[str, Tensor]) -> str | None:
    """The architecture of tensors under this module's names; None if they are no isotropic ConvNeXt's."""
    bias = tensors.get('stage.0.dwconv.bias')
    if bias is None:
        return None
    depth = len({found[1] for found in map(_BLOCK.match, tensors) if found})
    for size, arch in ISOTROPIC_ARCHS.items():
        if (arch.depth, arch.dim) == (depth, bias.numel()):
            return f'ConvNeXtIsotropic {size}'
    return f'ConvNeXtIsotropic with depth {depth} and dim {bias.numel()}'
