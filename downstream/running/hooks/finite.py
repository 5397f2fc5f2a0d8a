"""A loss or a gradient that is infinite or NaN stops a run before it reaches the weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from backbones.errors import UserError
from downstream.distributed.flags import maximum
from downstream.distributed.wrapping import unwrapped
from downstream.running.checkpoint.sharding import is_sharded, local

from .preemption import PreemptionHook

# A loss this many times the median of the last ones is logged, once there are enough of them.
_SPIKE, _REMEMBERED, _ENOUGH = 10, 50, 10


class NotFiniteError(UserError):
    """A loss or a gradient is infinite or NaN."""


@dataclass
class _Pass:
    """One forward and backward pass: its batch, its loss terms, and their sum on the device."""

    batch: Mapping
    losses: dict[str, Tensor] = field(default_factory=dict)

    def total(self, device: torch.device) -> Tensor:
        return sum(self.losses.values(), torch.zeros((), device=device)).float()

    def images(self) -> list:
        samples = self.batch.get('data_samples') or []
        return [
            sample.metainfo.get('img_id', sample.metainfo.get('img_path')) for sample in samples
        ]


# FiniteGuardHook is the former name; configs may still use it.
@HOOKS.register_module(name=['FiniteLossHook', 'FiniteGuardHook'])
class FiniteLossHook(Hook):
    """Stops a run before an optimizer step whose loss or gradients are not finite, and names the cause.

    The images of the step are saved as ``<work dir>/not_finite_iter<N>_rank<R>.pth``. Resuming is
    exact, so ``--resume`` meets the same step again. All processes stop together. Under float16 the
    loss scaler skips steps with infinite gradients by itself; here only the loss is checked then.

    A forward hook of the model collects the losses, and a pre-hook of ``optimizer.step`` checks them
    together with the norm of the gradients. Both are removed after the training. Each step costs one
    synchronization of host and device, and with several processes one all_reduce of two whole numbers,
    which it shares with :class:`PreemptionHook`. With accumulated gradients a step is all passes since
    the last one; they are checked, and skipped, together.

    ``clip_grad`` runs before the check. Where the norm is NaN it makes every gradient NaN, so that the
    message cannot name the first one.

    Args:
        skips: How many such steps are skipped before the run stops.
    """

    priority = 'VERY_HIGH'

    def __init__(self, skips: int = 0) -> None:
        self.skips_left = skips
        self._handles: list = []
        self._passes: list[_Pass] = []
        self._checked = False
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

    def before_train(self, runner: Runner) -> None:
        self.close()
        self._runner = runner
        model = unwrapped(runner.model)
        self._model, optimizer = model, runner.optim_wrapper.optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group['params']]
        self._sharded = is_sharded(model)
        self._scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        self._preemption = next(
            (hook for hook in runner.hooks if isinstance(hook, PreemptionHook)), None
        )
        collect, check = self._collect_losses, self._before_step
        if runner.cfg.get('compile'):
            # What changes this object from step to step is not for the compiler to trace.
            collect, check = torch.compiler.disable(collect), torch.compiler.disable(check)
        self._handles = [
            model.register_forward_hook(collect),
            optimizer.register_step_pre_hook(check),
        ]

    def after_train(self, runner: Runner) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks from model and optimizer, and forget the last batch."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._passes, self._checked = [], [], False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping | None = None
    ) -> None:
        if self._checked:
            self._passes, self._checked = [], False
        self._passes.append(_Pass(data_batch if isinstance(data_batch, Mapping) else {}))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Mapping | None = None,
    ) -> None:
        # The loss scaler skipped the step: the pre-hook of the optimizer did not run.
        if not self._checked and runner.optim_wrapper.should_update():
            self._is_step_finite(with_gradients=False)

    def _collect_losses(self, model: nn.Module, inputs: tuple, output: object) -> None:
        if model.training and self._passes and isinstance(output, Mapping):
            self._passes[-1].losses = {
                name: sum(part.detach().mean() for part in _as_list(value))
                for name, value in output.items()
                if 'loss' in name
            }

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if not self._is_step_finite(with_gradients=not self._scaled):
            # Optimizers leave parameters without gradients, and their averages, as they are.
            optimizer.zero_grad(set_to_none=True)

    def _is_step_finite(self, with_gradients: bool) -> bool:
        """Whether losses and gradients are finite in all processes.

        Raises:
            NotFiniteError: They are not, and no step may be skipped any more.
        """
        self._checked = True
        gradients = [local(p.grad) for p in self._parameters if p.grad is not None]
        gradients = gradients if with_gradients else []
        device = self._parameters[0].device
        norm = get_total_norm(gradients).float() if gradients else torch.zeros((), device=device)
        values = [*(one.total(device) for one in self._passes), norm.to(device)]
        *losses, norm_value = torch.stack(values).tolist()  # the host waits here for the device
        bad = [one for one, loss in zip(self._passes, losses) if not math.isfinite(loss)]
        # The norm overflows before every gradient is infinite.
        broken = self._broken_gradients() if not math.isfinite(norm_value) else []
        rank, received = maximum(
            get_rank() + 1 if bad or broken else 0,
            self._preemption.received if self._preemption else 0,
        )
        if self._preemption:
            self._preemption.agree_on(received)
        if not rank:
            self._log_spikes(losses)
            return True
        self._refuse(self._cause(bad, broken, rank - 1), bad or self._passes)
        return False

    def _broken_gradients(self) -> list[str]:
        names = {id(p): name for name, p in self._model.named_parameters()}
        return [
            names.get(id(p), 'a parameter outside of the model')
            for p in self._parameters
            if p.grad is not None and not torch.isfinite(local(p.grad)).all()
        ]

    @staticmethod
    def _cause(bad: list[_Pass], broken: list[str], rank: int) -> str:
        if bad:
            return 'the loss is not finite'
        if broken:
            return f'{len(broken)} gradients are not finite, that of {broken[0]} first'
        return f'a loss or a gradient of rank {rank} is not finite'

    def _log_spikes(self, losses: list[float]) -> None:
        for one, loss in zip(self._passes, losses):
            usual = median(self._recent) if len(self._recent) > _ENOUGH else math.inf
            if loss > _SPIKE * usual:
                self._runner.logger.warning(
                    f'Loss {loss:.4g} in iteration {self._runner.iter}; the median of the last ones is '
                    f'{usual:.4g}; images {one.images()}'
                )
            self._recent.append(loss)

    def _refuse(self, cause: str, passes: list[_Pass]) -> None:
        """Count a skipped step, or stop the run."""
        iteration = self._runner.iter
        terms = {name: float(value) for one in passes for name, value in one.losses.items()}
        shown = ', '.join(f'{name} {value:.4g}' for name, value in terms.items())
        images = [image for one in passes for image in one.images()]
        message = f'iteration {iteration}: {cause} ({shown}); images {images}'
        if self.skips_left > 0:
            self.skips_left -= 1
            count = len(self._passes)
            dropped = f' with the gradients of its {count} passes' if count > 1 else ''
            self._runner.logger.warning(
                f'{message}. The step is skipped{dropped}; {self.skips_left} more may be.'
            )
            return
        path = Path(self._runner.work_dir) / f'not_finite_iter{iteration}_rank{get_rank()}.pth'
        inputs = [image for one in passes for image in _as_list(one.batch.get('inputs', []))]
        content = {'iteration': iteration, 'seed': self._runner.seed, 'losses': terms}
        torch.save({**content, 'images': images, 'inputs': inputs}, path)
        raise NotFiniteError(
            f'{message}. The weights are as before the step; the images are in {path}. Look at them, '
            'lower the learning rate, or replace --amp fp16 by --amp bf16; '
            'default_hooks.finite.skips=N skips up to N such steps.'
        )


def _as_list(value: Tensor | list) -> list:
    return [value] if isinstance(value, (Tensor, Mapping)) else list(value)
