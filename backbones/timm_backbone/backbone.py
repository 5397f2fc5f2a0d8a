"""Any model of timm as a backbone with feature maps at strides 4, 8, 16 and 32.

Parameters have timm's names, under ``model.``. Their depths and exemptions from weight decay follow
timm's rules. What dense prediction needs besides is added: norms on the outputs, missing strides, images
of any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.arguments import checked_channels
from backbones.base import Backbone, accepted_arguments, can_synchronise
from backbones.convnext.weight_names import LAYOUTS
from backbones.errors import ConfigError
from backbones.layers import LayerNorm2d
from backbones.multiples import crop_to_stride, pad_to_multiple
from backbones.optim.layer_depth import (
    Depth,
    convnext_layer_depth,
    convnext_stage_depth,
    folded,
    generic_depths,
)
from backbones.pyramid import nearest_stride, pyramid_level
from backbones.uninitialised import on_meta
from backbones.weights.timm_catalog import check_model_name, input_statistics
from backbones.weights.translation import Translation

from .checkpoints import as_timm_reads
from .create import (
    STRIDES,
    TimmModel,
    create,
    dense_model_args,
    features_of,
    is_resnet,
    leaves_outputs_unnormalised,
)
from .groups import block_names, frozen_modules, groups_of
from .sizes import find_size_divisor, odd_multiple, run_on_meta

NORM_EPS = 1e-6
_TIMM_LAYOUT = next(layout for layout in LAYOUTS if layout.name == 'timm')


@MODELS.register_module()
class TimmBackbone(Backbone):
    """A timm model, returning the last feature map of each of the strides 4, 8, 16 and 32.

    A stride that the model does not have is made from the nearest one as in ViTDet's simple feature
    pyramid (Li et al. 2022, section 3): finer maps by transposed convolutions that halve the channels,
    coarser ones by max pooling. For a plain ViT those are all but its own. The 1x1 and 3x3 convolutions
    which follow there are those of the neck here.

    Args:
        model: A name of ``timm.list_models()``.
        out_indices: Which of the four maps are returned, in this order.
        drop_path_rate: Stochastic depth, where the model has it.
        output_norm: Whether every output gets a LayerNorm, as Swin's and ConvNeXt's detectors have;
            None: if the model has any other normalisation than BatchNorm, whose residual stream is
            not normalised.
        frozen_stages: Nothing (-1), the stem (0), or the stem and as many stages do not train.
        norm_eval: Whether BatchNorm uses its running statistics, unchanged, in training mode too.
        sync_bn: Whether BatchNorm takes the statistics of all processes. It needs CUDA and, when the
            backbone is built, an initialised process group of several processes; otherwise nothing is
            converted.
        norm_frozen: Whether BatchNorm's weight and bias do not train; with ``norm_eval`` it is
            detectron2's FrozenBN.
        with_cp: Recompute blocks in the backward pass to save memory, where the model can.
        size_divisor: What the model needs the sides of an image to be multiples of; inputs that are
            not are padded, and maps cropped. None: found by trial on the meta device.
        in_channels: Channels of the images; pretrained stems of RGB images are adapted
            (:mod:`backbones.weights.stem`).
        model_args: Further arguments of timm's model.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``, e.g. ``timm:<model>.<tag>``.
        contiguous_maps: As in :class:`backbones.Backbone`.

    Input ``(N, in_channels, H, W)``; output a tuple of ``(N, out_channels[i], H / out_strides[i],
    W / out_strides[i])``, rounded down or up as the model does it.

    Raises:
        ConfigError: There is no such model, it has no feature maps, it takes images of one size alone,
            or an argument is not possible.
    """

    takes_any_size = True

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        output_norm: bool | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_frozen: bool = False,
        sync_bn: bool = False,
        with_cp: bool = False,
        size_divisor: int | None = None,
        in_channels: int = 3,
        model_args: Mapping | None = None,
        init_cfg: dict | None = None,
        contiguous_maps: bool = False,
    ) -> None:
        super().__init__(init_cfg, norm_eval, contiguous_maps)
        check_model_name(model)
        self.model_name = model
        given = dict(model_args or {})
        self.input_channels = checked_channels(given.pop('in_chans', in_channels))
        if self.input_channels == 3:
            self.input_mean, self.input_std = input_statistics(init_cfg)
        self.out_indices = tuple(out_indices)
        if not self.out_indices or not set(self.out_indices) <= {0, 1, 2, 3}:
            raise ConfigError(f'out_indices={out_indices!r}: give maps out of 0, 1, 2, 3.')
        if self.input_channels != 3:
            given['in_chans'] = self.input_channels
        self._model_args = dense_model_args(model, drop_path_rate, given)
        self.model: TimmModel = create(model, self._model_args)

        # For each output its stride, and the feature map that it is made from.
        features = features_of(model, self.model)
        self._sources = {i: nearest_stride(STRIDES[i], features) for i in self.out_indices}
        self._taken = sorted({features[s] for s in self._sources.values()})
        self._stride_of = {features[s]: s for s in features}
        widths = {s: self.model.feature_info[index]['num_chs'] for s, index in features.items()}
        self._prune()
        self.input_divisor = size_divisor or self._find_input_divisor()

        self.pyramid = nn.ModuleDict()
        channels = []
        norms = leaves_outputs_unnormalised(self.model) if output_norm is None else output_norm
        eps = next((m.eps for m in self.model.modules() if isinstance(m, nn.LayerNorm)), NORM_EPS)
        for i in self.out_indices:
            source = self._sources[i]
            level, width = pyramid_level(widths[source], source, STRIDES[i])
            if level is not None:
                self.pyramid[str(i)] = level
            if norms:
                self.add_module(f'norm{i}', LayerNorm2d(width, eps=eps))
            channels.append(width)
        self.output_norm = norms
        self.out_channels = tuple(channels)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)

        if with_cp:
            if not hasattr(self.model, 'set_grad_checkpointing'):
                raise ConfigError(f'timm:{model} cannot recompute its blocks; leave with_cp out.')
            self.model.set_grad_checkpointing(True)
        if sync_bn and can_synchronise():
            from timm.layers import convert_sync_batchnorm

            self.model = convert_sync_batchnorm(self.model)
        self._stage_depths: Mapping[str, Depth] | None = None
        if norm_frozen:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        self._freeze(frozen_stages)

    @property
    def num_stages(self) -> int:  # type: ignore[override]
        """How many stages ``frozen_stages`` counts: timm's coarse groups of layers."""
        return max(groups_of(self.model, coarse=True).values())

    @property
    def added_modules(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pyramid's layers and the output norms, which timm's files do not contain."""
        return ('pyramid', *(f'norm{i}' for i in self.out_indices))

    @property
    def recipe_frozen_stages(self) -> int:  # type: ignore[override]
        """ResNet detectors are fine-tuned with the stem and the first stage frozen."""
        return 1 if is_resnet(self.model) else -1

    @property
    def takes_drop_path_rate(self) -> bool:  # type: ignore[override]
        """Whether timm's model has drop path; not for ResNets, whose recipes have none."""
        return 'drop_path_rate' in accepted_arguments(type(self.model)) and not is_resnet(
            self.model
        )

    def resolved_arguments(self) -> dict[str, object]:
        """``size_divisor``, which otherwise is found by trial."""
        return {'size_divisor': self.input_divisor}

    def blocks(self) -> Iterable[nn.Module]:
        """The largest modules within one of timm's groups of layers, without stem and output norms."""
        called = self._modules_called_once()
        for name in block_names(self.model, '', groups_of(self.model, coarse=False)):
            if name in called:
                yield self.model.get_submodule(name)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.input_divisor)
        maps = self.model.forward_intermediates(
            padded, indices=self._taken, output_fmt='NCHW', intermediates_only=True
        )
        by_stride = {self._stride_of[i]: m for i, m in zip(self._taken, maps)}
        outputs = []
        for i in self.out_indices:
            y = by_stride[self._sources[i]]
            if str(i) in self.pyramid:
                y = self.pyramid[str(i)](y)
            if padded is not x:
                y = crop_to_stride(y, height, width, STRIDES[i])
            if self.output_norm:
                y = getattr(self, f'norm{i}')(y)
            outputs.append(y)
        return tuple(outputs)

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """The tensors of a checkpoint in this model's own layout, or in one that timm can convert."""
        own = self.state_dict()
        mine = super().translate(state)
        if mine.tensors and not mine.foreign:
            return mine
        filtered, known = as_timm_reads(self.model_name, self._model_args, state)
        tensors = {f'model.{k}': v for k, v in filtered.items() if f'model.{k}' in own}
        rest = [k for k in filtered if f'model.{k}' not in own]
        return Translation(
            'timm',
            '',
            tensors,
            tuple(k for k in rest if k in known),
            tuple(k for k in rest if k not in known),
        )

    def layer_depths(self) -> Mapping[str, Depth]:
        """timm's groups of layers (``group_matcher``), in at most 12 between stem and heads.

        ConvNeXts have the official ids. ResNets have one group: their recipes have no layer decay.
        """
        if self._layer_depths is None:
            self._layer_depths = self._depths(convnext_layer_depth, coarse=False)
        return self._layer_depths

    def stage_depths(self) -> Mapping[str, Depth]:
        """The groups by stage; plain ViTs have no stages: each layer is one."""
        if self._stage_depths is None:
            self._stage_depths = self._depths(convnext_stage_depth, coarse=True)
        return self._stage_depths

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm exempts from weight decay (position tables, ...) and GRN's."""
        exempt = set(getattr(self.model, 'no_weight_decay', set)())
        names = (name for name, _ in self.model.named_parameters())
        return {f'model.{name}' for name in names if name in exempt or '.grn.' in name}

    def frozen_modules(self) -> Iterable[nn.Module]:
        """The largest modules all of whose parameters, including those of children, are frozen."""
        return frozen_modules(self)

    def _find_input_divisor(self) -> int:
        strides = [self._stride_of[i] for i in self._taken]
        divisor = find_size_divisor(self.model_name, self._model_args, self._taken, strides)
        made_from = [s for i, s in self._sources.items() if s != STRIDES[i]]
        # A map made from a coarser one has the size it should if that one was not rounded.
        return max([divisor, *made_from])

    def _modules_called_once(self) -> set[str]:
        """Names of timm's modules that a forward pass calls once.

        Some models run parts of a block without calling it (Xception) or index a Sequential (SelecSLS).
        """
        with on_meta():
            model = create(self.model_name, self._model_args).eval()
        calls: Counter[str] = Counter()
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
        side = odd_multiple(64, self.input_divisor)
        run_on_meta(model, self._taken, side, side, self.input_channels)
        return {name for name, count in calls.items() if count == 1}

    def _prune(self) -> None:
        """Remove layers that no output needs: parameters without gradients stop distributed training."""
        if hasattr(self.model, 'prune_intermediate_layers'):
            self.model.prune_intermediate_layers(self._taken, prune_norm=True, prune_head=True)

    def _freeze(self, stages: int) -> None:
        if stages < 0:
            return
        if stages > self.num_stages:
            raise ConfigError(
                f'frozen_stages={stages}: timm:{self.model_name} has {self.num_stages} stages.'
            )
        groups = groups_of(self.model, coarse=True)
        for name, parameter in self.model.named_parameters():
            if (
                groups[name] <= stages
            ):  # timm leaves some of the others untrained, as no output uses them
                parameter.requires_grad_(False)
        self.train(self.training)

    def _depths(self, convnext_rule, coarse: bool) -> Mapping[str, Depth]:
        from timm.models.convnext import ConvNeXt

        names = [name for name, _ in self.model.named_parameters()]
        if isinstance(self.model, ConvNeXt):
            model: TimmModel = self.model
            blocks = len(model.stages[2].blocks)
            rule = lambda name: convnext_rule(_TIMM_LAYOUT.official_name(name), blocks)  # noqa: E731
            return {f'model.{name}': rule(name) for name in names}
        if is_resnet(self.model):
            return {f'model.{name}': (0, 1) for name in names}
        groups = groups_of(self.model, coarse=False)
        fine = folded(groups) if len(set(groups.values())) > 2 else generic_depths(names)
        if coarse:
            stages = groups_of(self.model, coarse=True)
            if len(set(stages.values())) > 3:
                total = next(iter(fine.values()))[1]
                fine = {name: (min(stages[name], total - 2), total) for name in names}
        return {f'model.{name}': depth for name, depth in fine.items()}
