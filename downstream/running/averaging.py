"""Averaged weights in one operation for all parameters."""

from __future__ import annotations

from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """mmengine's ``ExponentialMovingAverage`` that updates all parameters in one operation.

    mmengine starts a kernel for each parameter; on a GPU, PyTorch joins the updates of all of them. The
    averages of float32 weights are the same, bit for bit, on a CPU. For
    ``EMAHook(ema_type='ForeachExponentialMovingAverage')``; arguments are those of mmengine's class.
    """

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Collect a pair; :meth:`update_parameters` averages all pairs together."""
        self._averaged.append(averaged_param)
        self._sources.append(source_param)

    def update_parameters(self, model: nn.Module) -> None:
        """Update the averages with the parameters of ``model``."""
        self._averaged: list[Tensor] = []
        self._sources: list[Tensor] = []
        super().update_parameters(model)
        if self._averaged:
            update = get_ema_multi_avg_fn(decay=1 - self.momentum)
            update(self._averaged, self._sources, self.steps)
        del self._averaged, self._sources  # no copy of the parameters outlives the update
