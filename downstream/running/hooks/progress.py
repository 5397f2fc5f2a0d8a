"""A progress bar on a terminal; pipes and files get mmengine's plain lines."""

from __future__ import annotations

import logging
import resource
import shutil
import sys

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows a bar with loss, rate, memory and time left while training, validating and testing.

    Only on a terminal and in the main process. There it replaces the logger's lines per iteration, which
    still go to the log file.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._handlers: list[tuple[logging.StreamHandler, object]] = []

    def before_run(self, runner) -> None:
        if not (is_main_process() and sys.stdout.isatty()):
            return
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.addFilter(_is_no_iteration)
                self._handlers.append((handler, handler.stream))
                handler.setStream(_AboveBar())

    def after_run(self, runner) -> None:
        self._close()
        for handler, stream in self._handlers:
            handler.setStream(stream)
            handler.removeFilter(_is_no_iteration)
        self._handlers.clear()

    def before_train(self, runner) -> None:
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._bar is None:
            self._open('train', runner.max_iters, runner.iter)
        if self._bar is not None:
            loss = runner.message_hub.get_scalar('train/loss').current()
            self._bar.set_postfix_str(f'loss {loss:.3f}, {_memory()}', refresh=False)
            self._bar.update()

    def after_train_epoch(self, runner) -> None:
        if runner.iter >= runner.max_iters:
            self._close()

    def after_train(self, runner) -> None:
        self._close()

    def before_val_epoch(self, runner) -> None:
        self._open('val', len(runner.val_dataloader))

    def before_test_epoch(self, runner) -> None:
        self._open('test', len(runner.test_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step()

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step()

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._close()

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._close()

    def _open(self, name: str, total: int, done: int = 0) -> None:
        self._close()
        if self._handlers:
            # Where a terminal does not report its size, tqdm would show nothing.
            has_size = shutil.get_terminal_size((0, 0)).columns > 0
            self._bar = tqdm(
                desc=name,
                total=total,
                initial=done,
                unit='it',
                dynamic_ncols=has_size,
                ncols=None if has_size else 100,
                nrows=None if has_size else 24,
                file=sys.stdout,
            )

    def _step(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_memory(), refresh=False)
            self._bar.update()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _AboveBar:
    """A stream whose lines appear above the bar."""

    def write(self, text: str) -> None:
        if text.strip():
            tqdm.write(text.rstrip('\n'), file=sys.stdout)

    def flush(self) -> None:
        sys.stdout.flush()


def _is_no_iteration(record: logging.LogRecord) -> bool:
    """Lines per iteration hold the time left, summaries of an epoch do not."""
    text = str(record.msg)
    return not (text.startswith(('Epoch(', 'Iter(')) and 'eta:' in text)


def _memory() -> str:
    if torch.cuda.is_available():
        return f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB'
    return f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB'
