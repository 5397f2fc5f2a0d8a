"""The base class of every backbone here, and of your own: facts about itself, with defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.optim.layer_depth import Depth, generic_depths
from backbones.weights.load import load_pretrained
from backbones.weights.translation import Translation, by_own_names

from .errors import ConfigError


def accepted_arguments(cls: type) -> set[str]:
    """Names of the arguments of a class, including those that ``**kwargs`` passes to its bases."""
    names: set[str] = set()
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(vars(base)['__init__']).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names - {'self'}


def can_synchronise() -> bool:
    """Whether there are several processes, on CUDA, for BatchNorm to take the statistics of.

    With one process mmengine's Runner reverts synchronised norms, and of timm's, which include the
    activation, it would make norms without one.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and torch.cuda.is_available()


def make_contiguous(_: nn.Module, __: object, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A forward hook that makes the maps of a backbone contiguous."""
    return tuple(m.contiguous() for m in maps)


class Backbone(BaseModule):
    """A network whose ``forward`` turns ``(N, C, H, W)`` into a tuple of feature maps.

    A subclass sets :attr:`out_channels` and :attr:`out_strides`, and overrides what differs from the
    defaults below. Detectors, segmenters, optimizers and sharding read these facts from the object, never
    from its class. A plain ``nn.Module`` may have any of the same attributes and methods.

    Attributes:
        out_channels: Channels of every map: map ``i`` is ``(N, out_channels[i], H / out_strides[i],
            W / out_strides[i])``, rounded down or up.
        out_strides: Stride of every map, in pixels of the input; the finest map comes first.
        size_divisor: Images are padded so that their sides are multiples of this. None: 1 if the
            backbone takes any size, otherwise the largest stride.
        takes_any_size: Whether ``forward`` takes images of any size, padding them itself where
            necessary. None: a trial forward pass at odd sizes decides, unless ``size_divisor`` is set.
        added_modules: Names of modules that pretrained files do not contain and that start from their
            initial values. None: OpenMMLab's convention, a norm ``norm<i>`` for every ``i`` of
            ``out_indices``.
        input_channels: C, the channels of the images. A class that takes other images than RGB has an
            argument ``in_channels`` for it.
        input_mean: Mean of the R, G and B values, from 0 to 255, that the weights were trained with.
            None: the config's.
        input_std: Standard deviation of the same.
        num_stages: How many stages the argument ``frozen_stages`` counts. ``frozen_stages=num_stages``
            freezes everything but what dense prediction adds (output norms, feature pyramid). 0: the
            class has no such argument.
        recipe_frozen_stages: The ``frozen_stages`` with which detectors are fine-tuned from pretrained
            weights; -1: all stages train.
        takes_drop_path_rate: Whether the ``drop_path_rate`` of a recipe applies to this backbone. None:
            if its class has such an argument.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a name of the table of weights,
            a path or a URL; see :func:`backbones.weights.load.load_pretrained`.
        norm_eval: Whether BatchNorm uses its running statistics, and leaves them unchanged, in
            training mode too.
        contiguous_maps: Whether maps are contiguous, as those of OpenMMLab's backbones are. Otherwise
            they may be in channels_last memory format, which is faster, and which heads that call
            ``view()`` refuse.
    """

    _is_init: bool  # mmengine's
    out_channels: tuple[int, ...] = ()
    out_strides: tuple[int, ...] = ()
    size_divisor: int | None = None
    takes_any_size: bool | None = None
    added_modules: tuple[str, ...] | None = None
    input_channels: int = 3
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None
    num_stages: int = 0
    recipe_frozen_stages: int = -1
    takes_drop_path_rate: bool | None = None

    def __init__(
        self,
        init_cfg: dict | None = None,
        norm_eval: bool = False,
        contiguous_maps: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.norm_eval = norm_eval
        if contiguous_maps:
            self.register_forward_hook(make_contiguous)
        self._layer_depths: Mapping[str, Depth] | None = None

    def resolved_arguments(self) -> dict[str, object]:
        """Arguments whose values were found while this object was built.

        A config that states them builds the same backbone without searching again.
        """
        return {}

    def blocks(self) -> Iterable[nn.Module]:
        """The repeated units, in the order of the forward pass, for sharding and checkpointing.

        Every unit must be a module that ``forward`` calls, and no unit may contain another one.
        Parameters outside the units are sharded together. The default is no unit.
        """
        return ()

    def init_weights(self) -> None:
        """Load the pretrained weights that ``init_cfg`` names; without it, weights stay random.

        Raises:
            ConfigError: ``init_cfg`` is of another form.
            WeightsError: The weights cannot be found or do not fit this model.
        """
        if self._is_init:
            return
        if self.init_cfg:
            cfg = dict(self.init_cfg) if isinstance(self.init_cfg, Mapping) else {}
            if cfg.pop('type', None) != 'Pretrained' or not cfg.get('checkpoint'):
                raise ConfigError(
                    f'{type(self).__name__}: init_cfg={self.init_cfg!r} is not supported; give '
                    "dict(type='Pretrained', checkpoint=NAME, PATH or URL), or None to start from "
                    'random weights.'
                )
            load_pretrained(self, **cfg)
        self._is_init = True

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """The tensors of a checkpoint under this model's parameter names."""
        return by_own_names(state, self.state_dict())

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The architecture that ``tensors``, under this model's names, belong to.

        Messages about weights that do not match use it: "these are the weights of ...".

        Returns:
            None if it cannot be recognized; a message then lists the tensors instead.
        """
        return None

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except for frozen modules and, with ``norm_eval``, BatchNorm."""
        super().train(mode)
        for module in self.frozen_modules():
            nn.Module.train(module, False)  # not eval(): it calls train(), and module may be self
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def frozen_modules(self) -> Iterable[nn.Module]:
        """Modules that do not train; they stay in evaluation mode with all their children."""
        return ()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Depth of a parameter for layer-wise learning-rate decay.

        The default groups blocks in the order of their definition, in at most 12 groups
        (:func:`backbones.optim.layer_depth.generic_depths`).

        Args:
            param_name: As in ``named_parameters()``, after ``prefix``.
            prefix: The name of the backbone in a larger model, e.g. ``'backbone.'``.

        Returns:
            ``(depth, number_of_layers)``: the rate is multiplied by
            ``decay ** (number_of_layers - depth - 1)``, as in mmpretrain.
        """
        return self._depth_in(self.layer_depths(), param_name, prefix)

    def get_stage_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Like :meth:`get_layer_depth`, for stage-wise decay."""
        return self._depth_in(self.stage_depths(), param_name, prefix)

    def layer_depths(self) -> Mapping[str, Depth]:
        """Depth by parameter name; parameters that are missing have the depth of the heads."""
        if self._layer_depths is None:
            self._layer_depths = generic_depths(name for name, _ in self.named_parameters())
        return self._layer_depths

    def stage_depths(self) -> Mapping[str, Depth]:
        """Like :meth:`layer_depths`, for stage-wise decay."""
        return self.layer_depths()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters exempt from weight decay, besides biases and those of one dimension."""
        return set()

    @staticmethod
    def _depth_in(depths: Mapping[str, Depth], param_name: str, prefix: str) -> Depth:
        total = next(iter(depths.values()))[1]
        return depths.get(param_name.removeprefix(prefix), (total - 1, total))
