"""Runs that are told to stop finish their step, save, and say with which exit code they left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.running.checkpoint.files import INTERRUPTED, write_text

# "Temporary failure, try again" of sysexits.h: schedulers and scripts requeue on it.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class PreemptedError(Exception):
    """The run was told to stop, and did after saving ``checkpoint``."""

    def __init__(self, name: str, checkpoint: Path) -> None:
        super().__init__(
            f'stopped by {name} after saving {checkpoint}; --resume goes on as if nothing had happened.'
        )


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, SIGUSR1 (Slurm) or Ctrl-C: finish the step, save, leave with :data:`EXIT_CODE`.

    A second Ctrl-C stops at once. All processes stop after the same step, whichever got the signal.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._received = 0
        self._former: dict = {}

    def before_train(self, runner) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._note)

    def after_train(self, runner) -> None:
        self._restore()

    def _note(self, number: int, frame: object) -> None:
        if self._received and number == signal.SIGINT:
            self._restore()
            raise KeyboardInterrupt
        self._received = number

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: object = None, outputs: Sequence | None = None
    ) -> None:
        received = self._anywhere()
        # Half-accumulated gradients are in no checkpoint.
        if not received or not runner.optim_wrapper.should_update():
            return
        self._restore()
        meta = {'epoch': runner.epoch, 'iter': runner.iter + 1}
        path = Path(runner.work_dir) / INTERRUPTED
        runner.save_checkpoint(
            runner.work_dir,
            INTERRUPTED,
            meta=meta,
            by_epoch=False,
            then=lambda: write_text(path.with_name('last_checkpoint'), str(path)),
            wait=True,
        )
        raise PreemptedError(signal.Signals(received).name, path)

    def _anywhere(self) -> int:
        """The signal that some process has received, 0 if none has."""
        if not dist.is_initialized():
            return self._received
        device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
        flag = torch.tensor(self._received, device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag)
