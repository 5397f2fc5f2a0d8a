"""On a signal to stop, a run finishes its step, saves, and leaves with an exit code of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from downstream.distributed.flags import maximum
from downstream.distributed.processes import is_first_process
from downstream.running.checkpoint.files import INTERRUPTED, SavingError, write_text

# EX_TEMPFAIL of sysexits.h, "try again": schedulers and scripts requeue on it.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class PreemptedError(Exception):
    """The run received a signal to stop, and did so after saving ``checkpoint``."""

    def __init__(self, name: str, checkpoint: Path) -> None:
        super().__init__(
            f'stopped by {name} after saving {checkpoint}; --resume continues exactly from there.'
        )


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, SIGUSR1 (Slurm) or Ctrl-C: finish the step, save, leave with :data:`EXIT_CODE`.

    A second Ctrl-C stops at once; other signals are ignored while the checkpoint is written. All
    processes stop after the same step, whichever received the signal, and leave once the checkpoint is
    written. They agree on it in one all_reduce per optimizer step. Where the run has a
    :class:`.finite.FiniteLossHook`, that is its own, before the step: a signal that arrives later counts
    in the next one.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.received = 0  # by this process
        self._agreed: int | None = None
        self._validating = False
        self._former: dict = {}

    def before_train(self, runner: Runner) -> None:
        self.close()
        self.received, self._agreed, self._validating = 0, None, False
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._note)

    def after_train(self, runner: Runner) -> None:
        self.close()

    def close(self) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def agree_on(self, received: int) -> None:
        """Take the signal that all processes have agreed on for this step, 0 for none."""
        self._agreed = received

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            self.close()
            raise KeyboardInterrupt
        if not self.received and is_first_process():
            self._acknowledge(number)
        self.received = number

    def _acknowledge(self, number: int) -> None:
        """Write what happens now: a step or a validation may take long to finish.

        Not through a logger or a stream, which the signal may have interrupted in the middle of a line.
        """
        until = 'the validation and one more step are' if self._validating else 'this step is'
        name = signal.Signals(number).name
        message = f'{name}: the run saves and exits when {until} done. Ctrl-C now stops it at once.'
        with suppress(OSError):  # nobody reads any more
            os.write(2, f'\n{message}\n'.encode())

    def before_val(self, runner: Runner) -> None:
        self._validating = True

    def after_val(self, runner: Runner) -> None:
        self._validating = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | None = None,
    ) -> None:
        # Checkpoints do not hold gradients that are accumulated in part.
        if not runner.optim_wrapper.should_update():
            return
        received, self._agreed = self._agreed, None
        if received is None:
            (received,) = maximum(self.received)
        if not received:
            return
        path = Path(runner.work_dir) / INTERRUPTED
        # Signals that arrive meanwhile do not end the process: its handlers are still installed.
        error = self._save(runner, path)
        # No process leaves before the first one has written: a launcher would kill that one.
        (failed,) = maximum(int(error is not None))
        self.close()
        if error is not None:
            raise error
        if failed:
            raise SavingError(f'{path} was not written; another process reports why.')
        raise PreemptedError(signal.Signals(received).name, path)

    @staticmethod
    def _save(runner: Runner, path: Path) -> Exception | None:
        """Save a checkpoint; return the error, for which the other processes wait."""
        try:
            runner.save_checkpoint(
                runner.work_dir,
                INTERRUPTED,
                meta={'epoch': runner.epoch, 'iter': runner.iter + 1},
                by_epoch=False,
                then=lambda: write_text(path.with_name('last_checkpoint'), str(path)),
                wait=True,
            )
        except Exception as error:
            return error
        return None
