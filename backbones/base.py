"""What every backbone of this suite has in common, and what your own may derive from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.optim.layer_depth import Depth, generic_depths
from backbones.weights.load import load_pretrained
from backbones.weights.translation import Translation, by_own_names

from .errors import ConfigError


def accepted_arguments(cls: type) -> set[str]:
    """The names of the arguments that a class takes, those it hands on to its bases included."""
    names: set[str] = set()
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names - {'self'}


class Backbone(BaseModule):
    """A network whose ``forward`` turns ``(N, 3, H, W)`` into a tuple of feature maps.

    A subclass states

    - ``out_channels`` and ``out_strides``: map ``i`` is ``(N, out_channels[i], H / out_strides[i],
      W / out_strides[i])``;
    - ``size_divisor``, where it is not the largest stride: what the sides of an image must be
      multiples of;
    - ``added_modules``: names of its modules that pretrained files do not contain and that start from
      their initial values. The default is OpenMMLab's convention, a norm ``norm<i>`` for every ``i`` of
      ``out_indices``;

    and may override :meth:`get_layer_depth`, :meth:`get_stage_depth`, :meth:`no_weight_decay`,
    :meth:`translate` and :meth:`describe`.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a name of the table of weights,
            a path or a URL; see :func:`backbones.weights.load.load_pretrained`.
        norm_eval: Keep BatchNorm's statistics as they are also while training.
    """

    out_channels: tuple[int, ...] = ()
    out_strides: tuple[int, ...] = ()
    added_modules: tuple[str, ...] | None = None

    def __init__(self, init_cfg: dict | None = None, norm_eval: bool = False) -> None:
        super().__init__(init_cfg)
        self.norm_eval = norm_eval
        self._layer_depths: Mapping[str, Depth] | None = None

    @property
    def size_divisor(self) -> int:
        """The sides of images are padded to multiples of this."""
        return max(self.out_strides)

    def init_weights(self) -> None:
        """Load the pretrained weights that ``init_cfg`` names; without one, keep the random ones.

        Raises:
            ConfigError: ``init_cfg`` asks for something else.
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
        """A file's tensors under the names that this model has for them."""
        return by_own_names(state, self.state_dict())

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The architecture that ``tensors``, under this model's names, belong to.

        Messages about weights that do not match use it: "these are the weights of ...".

        Returns:
            None if it cannot be recognized; a message then lists the tensors instead.
        """
        return None

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def frozen_modules(self) -> Iterable[nn.Module]:
        """Modules that do not train."""
        return ()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Depth of a parameter for layer-wise learning-rate decay.

        Unless a subclass knows better: blocks in the order of their definition, in at most 12 groups
        (:func:`backbones.optim.layer_depth.generic_depths`).

        Returns:
            ``(depth, number_of_layers)``: mmpretrain's convention, in which the rate is multiplied
            by ``decay ** (number_of_layers - depth - 1)``.
        """
        return self._depth_in(self.layer_depths(), param_name, prefix)

    def get_stage_depth(self, param_name: str, prefix: str = '') -> Depth:
        """Like :meth:`get_layer_depth`, for stage-wise decay."""
        return self._depth_in(self.stage_depths(), param_name, prefix)

    def layer_depths(self) -> Mapping[str, Depth]:
        """The depths of all parameters that do not lie behind the backbone."""
        if self._layer_depths is None:
            self._layer_depths = generic_depths(name for name, _ in self.named_parameters())
        return self._layer_depths

    def stage_depths(self) -> Mapping[str, Depth]:
        """Like :meth:`layer_depths`, for stage-wise decay."""
        return self.layer_depths()

    def no_weight_decay(self) -> set[str]:
        """Parameters of several dimensions that weight decay must spare."""
        return set()

    @staticmethod
    def _depth_in(depths: Mapping[str, Depth], param_name: str, prefix: str) -> Depth:
        total = next(iter(depths.values()))[1]
        return depths.get(param_name.removeprefix(prefix), (total - 1, total))
