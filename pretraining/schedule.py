"""The learning rate of FCMAE and its groups of weight decay, as in the released code of ConvNeXt V2."""

from __future__ import annotations

import math

from mmengine.optim import CosineAnnealingLR, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from timm.optim import param_groups_weight_decay
from torch import nn

from backbones.errors import ConfigError
from backbones.upstream import required
from downstream.distributed.wrapping import unwrapped

required('mmengine.optim.CosineAnnealingLR._get_value')  # which is overridden


@PARAM_SCHEDULERS.register_module()
class WarmUpCosineLR(CosineAnnealingLR):
    """From 0 in a line to the rate of the optimizer, from there in half a cosine to 0.

    Every step has the value of the formula itself, not one that is made of the step before, which could
    not leave 0.

    Args:
        optimizer: Whose rate it is.
        warm_up: Length of the rise; also parts of an epoch, where it counts epochs.
        end: When the rate is 0 again.
        kwargs: Those of mmengine's schedulers.

    Raises:
        ConfigError: The run would end before the warm-up does.
    """

    def __init__(self, optimizer, *args, warm_up: float, end: int, **kwargs) -> None:
        if not 0 <= warm_up < end:
            raise ConfigError(
                f'warm_up={warm_up}: it must be at least 0 and below end={end}, the length of the run.'
            )
        self.warm_up = warm_up
        kwargs |= {
            'T_max': end,
            'eta_min': 0.0,
        }  # mmengine's conversion to steps hands T_max=None on
        super().__init__(optimizer, *args, end=end, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args, warm_up: float, epoch_length: int, **kwargs
    ) -> WarmUpCosineLR:
        """The same, counted in steps, from lengths in epochs of ``epoch_length`` steps."""
        return super().build_iter_from_epoch(
            *args, warm_up=warm_up * epoch_length, epoch_length=epoch_length, **kwargs
        )

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step < self.warm_up:
            factor = step / self.warm_up
        else:
            done = (step - self.warm_up) / (self.end - self.begin - self.warm_up)
            factor = 0.5 * (1 + math.cos(math.pi * done))
        return [factor * base for base in self.base_values]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayByDimensionConstructor(DefaultOptimWrapperConstructor):
    """Weight decay for what has more than one dimension and is no bias, in two groups.

    So GRN's gamma and beta and the mask token decay, norms and biases do not.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """An optimizer wrapper over ``model``, bare or wrapped for distribution."""
        groups = param_groups_weight_decay(unwrapped(model), self.base_wd or 0.0)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        wrapper = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper, default_args={'optimizer': optimizer})
