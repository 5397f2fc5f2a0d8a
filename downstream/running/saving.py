"""Checkpoints that are whole or not there: written aside, flushed, renamed, with a digest beside each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from backbones.errors import ConfigError, UserError, WeightsError
from backbones.weight_files import sha256

from . import checkpoints

# What a run that is told to stop saves; the next regular checkpoint takes its place.
INTERRUPTED = 'interrupted.pth'
_PARTIAL = '.partial'


class SavingError(UserError, OSError):
    """A checkpoint, or another file of a run, cannot be written."""


def cannot_be_written(path: str | Path, error: OSError) -> SavingError:
    """The error to raise for ``error``, met while ``path`` was written."""
    return SavingError(
        f'{path} cannot be written ({error.strerror or error}); earlier checkpoints are untouched. '
        'Make room and start again with --resume.'
    )


@contextmanager
def full_disk_told(folder: str | Path) -> Iterator[None]:
    """Raise a SavingError where a log or a config meets a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise cannot_be_written(error.filename or f'A file in {folder}', error) from error


def unfinished(name: str) -> str:
    """The name under which the checkpoint ``name`` is written before it is whole."""
    return f'.{name}{_PARTIAL}'


def publish(folder: Path, name: str) -> None:
    """Give a checkpoint that has been written aside its name, and write its digest beside it.

    A kill at any moment leaves either the old file or the new one under the name; a file without digest
    is whole, because it was renamed.
    """
    aside, target = folder / unfinished(name), folder / name
    _flush(aside)
    digest = sha256(aside)
    record = _record(target)
    record.unlink(missing_ok=True)
    aside.replace(target)
    write_text(record, f'{digest}  {name}\n')
    _flush(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole."""
    aside = path.with_name(unfinished(path.name))
    aside.write_text(text)
    _flush(aside)
    aside.replace(path)


def remove(path: Path) -> None:
    """Delete a checkpoint and its digest."""
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.sha256')


def _flush(path: Path) -> None:
    """Bring a file or the entries of a folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_whole(work_dir: str | Path) -> tuple[Path, dict] | None:
    """The newest checkpoint of a work dir that is whole, and its content; None if there is none.

    Damaged ones are skipped with a warning.
    """
    found = Path(work_dir).glob('*.pth')
    candidates = [p for p in found if p.name.startswith(('epoch_', 'iter_', INTERRUPTED))]
    for path in sorted(candidates, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            return path, verified(path)
        except WeightsError as error:
            print_log(f'Skipping a damaged checkpoint: {error}', 'current', level=30)
    return None


def verified(path: str | Path) -> dict:
    """The content of a checkpoint whose digest, if there is one, is right.

    Raises:
        WeightsError: It is damaged.
    """
    path = Path(path)
    record = _record(path)
    if path.is_file() and record.is_file():
        words = record.read_text().split()
        digest = sha256(path)
        if not words or words[0] != digest:
            raise WeightsError(
                f'{path} is damaged: its SHA-256 is {digest[:12]}..., {record.name} says '
                f'{words[0][:12] if words else "nothing"}...'
            )
    return checkpoints.read(path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, in an order that always leaves a whole checkpoint: save, point at it, and only
    then remove old ones."""

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        outdated = []
        if self.max_keep_ckpts > 0:
            if not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step:
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    outdated.append(self.keep_ckpt_ids.popleft())
                self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            then=partial(self._point_and_remove, Path(runner.work_dir), name, outdated),
            **self.args,
        )

    def _point_and_remove(self, work_dir: Path, name: str, outdated: list[int]) -> None:
        write_text(work_dir / 'last_checkpoint', str(Path(self.out_dir) / name))
        for old in outdated:
            remove(Path(self.out_dir) / self.filename_tmpl.format(old))
        remove(Path(self.out_dir) / INTERRUPTED)

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if is_main_process():
            runner.writer.check()
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner) -> None:
        if is_main_process():
            runner.writer.wait()
        super().after_train(runner)

    def _save_best_checkpoint(self, runner, metrics: dict[str, float]) -> None:
        """Save the best one under its name, and only then remove the one that was best before."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        improved = [
            self._save_best_of(runner, metrics, key, rule, step)
            for key, rule in zip(self.key_indicators, self.rules)
        ]
        if any(improved) and self.last_ckpt is not None:
            # once more, so that a resumed run knows the best figure
            self._save_checkpoint_with_step(runner, step, _position(runner))

    def _save_best_of(self, runner, metrics: dict, key: str, rule: str, step: int) -> bool:
        if key not in metrics:
            raise ConfigError(
                f'default_hooks.checkpoint.save_best={key!r}: validation gives {", ".join(metrics)}.'
            )
        which = '' if len(self.key_indicators) == 1 else f'_{key}'
        hub, score = runner.message_hub, metrics[key]
        best = hub.runtime_info.get(f'best_score{which}', self.init_value_map[rule])
        if score is None or not self.is_better_than[key](score, best):
            return False
        former = hub.runtime_info.get(f'best_ckpt{which}')
        name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        path = Path(self.out_dir) / name
        hub.update_info(f'best_score{which}', score)
        hub.update_info(f'best_ckpt{which}', str(path))
        if which:
            self.best_ckpt_path_dict[key] = str(path)
        else:
            self.best_ckpt_path = str(path)

        def remove_former() -> None:
            if former and Path(former) != path:
                remove(Path(former))

        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=False,
            save_param_scheduler=False,
            meta=_position(runner),
            by_epoch=False,
            then=remove_former,
        )
        runner.logger.info(f'Best {key} so far, {score:.4f}: {name}')
        return True


def _position(runner) -> dict[str, int]:
    return {'epoch': runner.epoch, 'iter': runner.iter}
