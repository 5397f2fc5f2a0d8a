"""Any module as a backbone: with weights, with contiguous maps, with the strides that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from backbones.arguments import checked_out_indices
from backbones.base import Backbone, make_contiguous
from backbones.errors import ConfigError
from backbones.multiples import crop_to_stride, pad_to_multiple
from backbones.optim.layer_decay import depths_of
from backbones.optim.layer_depth import Depth
from backbones.pyramid import can_be_made, nearest_stride, pyramid_level
from backbones.weights.translation import Translation, by_own_names

STRIDES = (4, 8, 16, 32)
# What the module states of itself, and what holds of the completed one too.
_STATED = (
    'size_divisor',
    'input_channels',
    'input_mean',
    'input_std',
    'num_stages',
    'recipe_frozen_stages',
    'takes_drop_path_rate',
)


# WithWeights is the former name; configs in work dirs have it.
@MODELS.register_module(name=['AnyModule', 'WithWeights'])
def any_module(
    module: str | type[nn.Module],
    init_cfg: dict | None = None,
    contiguous_maps: bool = False,
    **arguments: object,
) -> nn.Module:
    """A module with what its class has no argument for.

    Args:
        module: The path of its class, or the class.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``: weights, loaded when the model is
            initialised, completely or not at all.
        contiguous_maps: As in :class:`backbones.Backbone`.
        arguments: Those of the class.
    """
    built = MODELS.build({'type': module, **arguments})
    if init_cfg:
        built.init_cfg = init_cfg
    if contiguous_maps:
        built.register_forward_hook(make_contiguous)
    return built


@MODELS.register_module()
class CompletedBackbone(Backbone):
    """A module of one's own, returning one map at each of the strides 4, 8, 16 and 32.

    A stride that the module lacks is made from the nearest, as for timm's models
    (:func:`backbones.pyramid.pyramid_level`). Parameters of the module have its names, under ``net.``;
    what it states of itself (the contract) holds for this object as well.

    Args:
        module: The path of its class, or the class.
        channels: Channels of its maps.
        strides: Their strides, in pixels of the input; the finest map comes first.
        out_indices: Which of the four maps are returned, in this order.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``: weights of the module.
        contiguous_maps: As in :class:`backbones.Backbone`, for the maps that are made, too.
        arguments: Those of the class.

    Input as the module takes it; output a tuple of ``(N, out_channels[i], H / out_strides[i],
    W / out_strides[i])``, rounded down or up.

    Raises:
        ConfigError: A stride cannot be made.
    """

    def __init__(
        self,
        module: str | type[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        init_cfg: dict | None = None,
        contiguous_maps: bool = False,
        **arguments: object,
    ) -> None:
        super().__init__(init_cfg, contiguous_maps=contiguous_maps)
        self.out_indices = checked_out_indices(out_indices)
        self.net = MODELS.build({'type': module, **arguments})
        for name in _STATED:
            if hasattr(self.net, name):
                setattr(self, name, getattr(self.net, name))
        given = {stride: i for i, stride in enumerate(strides)}  # of equal strides the last
        sources = {i: nearest_stride(STRIDES[i], given) for i in self.out_indices}
        self._taken = {i: given[source] for i, source in sources.items()}
        self.pyramid = nn.ModuleDict()
        widths = []
        for i, source in sources.items():
            width = channels[given[source]]
            if not can_be_made(width, source, STRIDES[i]):
                raise ConfigError(
                    f'{type(self.net).__name__}: a map of stride {STRIDES[i]} cannot be made from one of '
                    f'stride {source} and {width} channels.'
                )
            level, width = pyramid_level(width, source, STRIDES[i])
            if level is not None:
                self.pyramid[str(i)] = level
            widths.append(width)
        self.out_channels = tuple(widths)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        # A map made from a coarser one has the size it should if that one was not rounded.
        self._divisor = max((s for i, s in sources.items() if s != STRIDES[i]), default=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self._divisor)
        maps = self.net(padded)
        outputs = []
        for i in self.out_indices:
            y = maps[self._taken[i]]
            if str(i) in self.pyramid:
                y = self.pyramid[str(i)](y)
            if padded is not x:
                y = crop_to_stride(y, height, width, STRIDES[i])
            outputs.append(y)
        return tuple(outputs)

    @property
    def added_modules(self) -> tuple[str, ...]:  # type: ignore[override]
        """The layers that make missing strides, which no file of the module's weights contains."""
        return ('pyramid',)

    def blocks(self) -> Iterable[nn.Module]:
        """Those of the module."""
        return getattr(self.net, 'blocks', tuple)()

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """The tensors of a checkpoint of this object, or of the module alone."""
        mine = by_own_names(state, self.state_dict())
        if mine.tensors and not mine.foreign:
            return mine
        translate = getattr(self.net, 'translate', None)
        found = translate(state) if translate else by_own_names(state, self.net.state_dict())
        tensors = {f'net.{name}': tensor for name, tensor in found.tensors.items()}
        return Translation(found.layout, found.prefix, tensors, found.dropped, found.foreign)

    def layer_depths(self) -> Mapping[str, Depth]:
        """Those of the module; what was added has the depth of the heads."""
        return self._depths('layer_wise')

    def stage_depths(self) -> Mapping[str, Depth]:
        """Like :meth:`layer_depths`, for stage-wise decay."""
        return self._depths('stage_wise')

    def no_weight_decay(self) -> set[str]:
        """Those of the module."""
        return {f'net.{name}' for name in getattr(self.net, 'no_weight_decay', set)()}

    def _depths(self, decay_type: str) -> Mapping[str, Depth]:
        return {f'net.{k}': depth for k, depth in depths_of(self.net, decay_type).items()}
