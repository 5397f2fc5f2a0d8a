"""mmengine's checkpoint hook in an order that leaves an intact checkpoint at any moment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from backbones.errors import ConfigError
from backbones.upstream import required

from . import files

# An override of a method that mmengine no longer calls would lose checkpoints in silence.
for _name in ('_save_checkpoint_with_step', '_save_best_checkpoint', '_init_rule'):
    required(f'mmengine.hooks.CheckpointHook.{_name}')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, in an order that leaves an intact checkpoint at any moment.

    It saves, points ``last_checkpoint`` at the new file, and only then removes old ones.
    """

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
        files.write_text(work_dir / 'last_checkpoint', str(Path(self.out_dir) / name))
        for old in outdated:
            files.remove(Path(self.out_dir) / self.filename_tmpl.format(old))
        files.remove(Path(self.out_dir) / files.INTERRUPTED)

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
            # Save again: a resumed run reads the best figure from this checkpoint.
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
                files.remove(Path(former))

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
