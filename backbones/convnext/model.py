"""ConvNeXt and ConvNeXt V2 for dense prediction: four feature maps at strides 4, 8, 16 and 32.

Sources: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545) and "ConvNeXt V2"
(Woo et al. 2023, arXiv 2301.00808). Parameter names and shapes are those of the official code, so
that official checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

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
from backbones.optim.layer_depth import Depth, convnext_layer_depth, convnext_stage_depth
from backbones.weights.timm_catalog import input_statistics
from backbones.weights.translation import Translation

from .archs import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, Arch
from .block import GRN, NORM_EPS
from .fused import FusedBlock, Stage
from .fused.conditions import prefers_channels_last
from .fused.switch import fused_switch
from .weight_names import describe, translate_backbone

STRIDES = (4, 8, 16, 32)


@MODELS.register_module()
class ConvNeXt(Backbone):
    """ConvNeXt (V1) with a LayerNorm on every output, as in the official detection code.

    Args:
        arch: A size of :attr:`archs`, or ``dict(depths=..., dims=...)`` of four numbers each.
        out_indices: Stages whose feature maps are returned, in this order; later ones are not built.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale_init_value: Initial layer scale; 0: none; None: 1.0 in V1, as in the papers'
            dense-prediction recipes (ImageNet training has 1e-6), none in V2.
        frozen_stages: Number of stages, from the stem on, that do not train (-1 and 0: all train).
        with_cp: Recompute each block in the backward pass to save memory.
        in_channels: Channels of the images; pretrained stems of RGB images are adapted
            (:mod:`backbones.weights.stem`).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a name of the table of weights,
            a path or a URL; see :func:`backbones.weights.load.load_pretrained`.
        contiguous_maps: As in :class:`backbones.Backbone`.

    Input ``(N, in_channels, H, W)``; output a tuple of ``(N, out_channels[i], H // out_strides[i],
    W // out_strides[i])``.

    Raises:
        ConfigError: An argument, or ``CONVNEXT_FUSED`` in the environment, has an impossible value; the
            message lists the possible ones.
    """

    family = 'convnext'
    archs: Mapping[str, Arch] = CONVNEXT_ARCHS
    num_stages = len(STRIDES)
    takes_any_size = True
    use_grn = False
    default_layer_scale = 1.0

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'tiny',
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
        if layer_scale_init_value is None:
            layer_scale_init_value = self.default_layer_scale
        self.arch = self.resolve_arch(arch)
        self.out_indices = checked_out_indices(out_indices)
        check_range('drop_path_rate', drop_path_rate, 0, 1)
        check_range('layer_scale_init_value', layer_scale_init_value, 0, float('inf'))
        self.frozen_stages = checked_frozen_stages(frozen_stages, self.num_stages)
        self.out_channels = tuple(self.arch.dims[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)

        rates = iter(
            torch.linspace(0, drop_path_rate, sum(self.arch.depths), device='cpu').tolist()
        )
        # Parameters of stages after the last map would get no gradient, which stops distributed training.
        built = max(self.out_indices) + 1
        depths, dims = self.arch.depths[:built], self.arch.dims[:built]
        stem = nn.Sequential(
            nn.Conv2d(self.input_channels, dims[0], kernel_size=4, stride=4),
            LayerNorm2d(dims[0], eps=NORM_EPS),
        )
        self.downsample_layers = nn.ModuleList([stem])
        for width_in, width_out in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(
                    LayerNorm2d(width_in, eps=NORM_EPS),
                    nn.Conv2d(width_in, width_out, kernel_size=2, stride=2),
                )
            )
        self.stages = nn.ModuleList()
        for depth, dim in zip(depths, dims):
            blocks = [
                FusedBlock(dim, next(rates), layer_scale_init_value, self.use_grn)
                for _ in range(depth)
            ]
            self.stages.append(Stage(*blocks, with_cp=with_cp))
        for i in sorted(self.out_indices):
            self.add_module(f'norm{i}', LayerNorm2d(dims[i], eps=NORM_EPS))
        self.apply(init_as_official)
        self._freeze()

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Sequence[int]]) -> Arch:
        """The depths and widths of ``arch``; ConfigError if it is unknown."""
        if isinstance(arch, str):
            if arch not in cls.archs:
                raise ConfigError(
                    f'{cls.__name__} has no arch {arch!r}; known: {", ".join(cls.archs)}.'
                )
            return cls.archs[arch]
        if not isinstance(arch, Mapping) or set(arch) != {'depths', 'dims'}:
            raise ConfigError(
                f'arch={arch!r}: give one of {", ".join(cls.archs)}, '
                'or dict(depths=(four numbers), dims=(four numbers)).'
            )
        for key, values in arch.items():
            if len(values) != 4 or not all(isinstance(v, int) and v > 0 for v in values):
                raise ConfigError(f'arch: {key}={values!r} must be four positive integers.')
        return Arch(tuple(arch['depths']), tuple(arch['dims']))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if prefers_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last)
        maps = {}
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = downsample(x)
            x = stage(x)
            if i in self.out_indices:
                maps[i] = getattr(self, f'norm{i}')(x)
        return tuple(maps[i] for i in self.out_indices)

    def blocks(self) -> Iterable[nn.Module]:
        """The blocks of all stages."""
        for stage in self.stages:
            yield from stage.children()

    @property
    def with_cp(self) -> bool:
        """Whether each block is recomputed in the backward pass; may be set at any time."""
        return any(getattr(stage, 'with_cp', False) for stage in self.stages)

    @with_cp.setter
    def with_cp(self, value: bool) -> None:
        for stage in self.stages:
            stage.with_cp = value  # type: ignore[assignment]

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        return translate_backbone(state, self.state_dict())

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        return describe(tensors)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Official layer ids; see :func:`backbones.optim.layer_depth.convnext_layer_depth`."""
        return convnext_layer_depth(param_name.removeprefix(prefix), self.arch.depths[2])

    def get_stage_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Official ids by stage; see :func:`backbones.optim.layer_depth.convnext_stage_depth`."""
        return convnext_stage_depth(param_name.removeprefix(prefix), self.arch.depths[2])

    def no_weight_decay(self) -> set[str]:
        """Parameters of more than one dimension that are exempt from weight decay: GRN's."""
        return {
            f'{name}.{param}'
            for name, module in self.named_modules()
            if isinstance(module, GRN)
            for param in ('gamma', 'beta')
        }

    def frozen_modules(self) -> list[nn.Module]:
        count = max(self.frozen_stages, 0)
        return [*self.downsample_layers[:count], *self.stages[:count]]

    def _freeze(self) -> None:
        for module in self.frozen_modules():
            module.eval().requires_grad_(False)


@MODELS.register_module()
class ConvNeXtV2(ConvNeXt):
    """ConvNeXt V2: GRN in every block instead of layer scale. Arguments as :class:`ConvNeXt`."""

    family = 'convnextv2'
    archs = CONVNEXTV2_ARCHS
    use_grn = True
    default_layer_scale = 0.0


def init_as_official(module: nn.Module) -> None:
    """Initial values of a layer as in the official code, for ``nn.Module.apply``."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
