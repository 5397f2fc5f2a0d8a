"""Losses and gradients that are no numbers stop a run before they reach the weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor

from backbones.errors import UserError
from downstream.running.checkpoint.sharding import is_sharded, local

# A loss so many times the median of the last ones is worth a line in the log.
_SPIKE, _REMEMBERED = 10, 50


class NotFiniteError(UserError):
    """A loss or a gradient is infinite or no number."""


@HOOKS.register_module()
class FiniteGuardHook(Hook):
    """Stops before the optimizer's step where loss or gradients are not finite, with what did it.

    The images of the step are left in ``<work dir>/not_finite_iter<N>_rank<R>.pth``; ``--resume``
    comes to the same step again, because resuming is exact. All processes stop together. Gradients
    under float16 are the loss scaler's business, which skips such steps by itself.

    Args:
        skips: How many such steps of a run may be left out before it stops.
    """

    priority = 'VERY_HIGH'

    def __init__(self, skips: int = 0) -> None:
        self.skips_left = skips
        self._batch: Mapping = {}
        self._losses: Mapping = {}
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

    def before_train(self, runner) -> None:
        self._runner = runner
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wrapper = runner.optim_wrapper
        self._sharded = is_sharded(model)
        self._parse, model.parse_losses = model.parse_losses, self._noting_parse
        self._update, wrapper.update_params = wrapper.update_params, self._guarded_update
        if not isinstance(wrapper, AmpOptimWrapper):
            self._step, wrapper.step = wrapper.step, self._guarded_step

    def before_train_iter(self, runner, batch_idx: int, data_batch: Mapping | None = None) -> None:
        self._batch = data_batch or {}

    def _noting_parse(self, losses: Mapping) -> tuple:
        self._losses = losses
        return self._parse(losses)

    def _guarded_update(self, loss: Tensor, *args, **kwargs) -> None:
        value = loss.item()
        if _anywhere(not math.isfinite(value), loss.device):
            self._refuse('the loss is')
            return
        if len(self._recent) > 10 and value > _SPIKE * median(self._recent):
            self._runner.logger.warning(
                f'Loss {value:.4g} in iteration {self._runner.iter}, after {median(self._recent):.4g} in '
                f'the median of the last ones; images {self._images()}'
            )
        self._recent.append(value)
        self._update(loss, *args, **kwargs)

    def _guarded_step(self, **kwargs) -> None:
        groups = self._runner.optim_wrapper.optimizer.param_groups
        grads = [p.grad for group in groups for p in group['params'] if p.grad is not None]
        norms = (
            torch.stack(torch._foreach_norm(list(map(local, grads)))) if grads else torch.zeros(1)
        )
        broken_here = not torch.isfinite(norms).all()
        # Of a sharded model each process sees a part.
        if not (_anywhere(broken_here, norms.device) if self._sharded else broken_here):
            self._step(**kwargs)
            return
        names = {
            id(p): name for name, p in self._runner.model.named_parameters() if p.grad is not None
        }
        broken = [g for g, norm in zip(grads, norms) if not torch.isfinite(norm)]
        owners = {id(p.grad): names[id(p)] for g in groups for p in g['params'] if id(p) in names}
        first = f', that of {owners[id(broken[0])]} first' if broken else ''
        self._refuse(f'{len(broken)} gradients{first}, are')

    def _refuse(self, what: str) -> None:
        """Leave the step out, or stop the run."""
        iteration = self._runner.iter
        terms = ', '.join(f'{name} {value:.4g}' for name, value in self._terms().items())
        message = f'iteration {iteration}: {what} not finite ({terms}); images {self._images()}'
        if self.skips_left > 0:
            self.skips_left -= 1
            self._runner.optim_wrapper.zero_grad()
            self._runner.logger.warning(f'{message}: left out, {self.skips_left} more may be.')
            return
        path = Path(self._runner.work_dir) / f'not_finite_iter{iteration}_rank{get_rank()}.pth'
        torch.save(
            {
                'iteration': iteration,
                'seed': self._runner.seed,
                'losses': self._terms(),
                'images': self._images(),
                'inputs': self._batch.get('inputs'),
            },
            path,
        )
        raise NotFiniteError(
            f'{message}. The weights are as before; the images are in {path}. Look at them, lower the '
            'learning rate, or take --amp bf16 in the place of fp16; FiniteGuardHook(skips=N) leaves out '
            'N such steps.'
        )

    def _terms(self) -> dict[str, float]:
        return {
            name: float(sum(v.detach().mean() for v in _tensors(value)))
            for name, value in self._losses.items()
            if 'loss' in name
        }

    def _images(self) -> list:
        samples = self._batch.get('data_samples') or []
        return [
            sample.metainfo.get('img_id', sample.metainfo.get('img_path')) for sample in samples
        ]


def _tensors(value: Tensor | list) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _anywhere(condition: bool, device: torch.device) -> bool:
    """Whether it is so in some process; all of them learn it."""
    if not dist.is_initialized():
        return condition
    flag = torch.tensor(int(condition), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
