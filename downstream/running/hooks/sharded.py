"""Sharded models: whole while they are evaluated; gradients are reduced when the optimizer needs them."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from downstream.running.checkpoint import sharding


class ShardedModelHook(Hook):
    """Gathers the parameters of a sharded model for a validation, and shards them again after it.

    Processes may call the backbone different numbers of times: sliding windows depend on the size of an
    image. If each call gathered parameters, processes would wait for each other for ever. Gathered
    parameters take up as much memory as in a test, beside the process's part of the optimizer state.

    The runner of a sharded model registers this hook; it is not for configs.

    Args:
        sync_every_pass: See :class:`~downstream.running.checkpoint.sharding.ShardingOptions`.
    """

    priority = 'VERY_HIGH'

    def __init__(self, sync_every_pass: bool = True) -> None:
        self.sync_every_pass = sync_every_pass

    def before_val(self, runner: Runner) -> None:
        sharding.gather_parameters(runner.model)

    # Before the best checkpoint is saved.
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        sharding.reshard(runner.model)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object | None = None
    ) -> None:
        if not self.sync_every_pass:
            runner.model.set_requires_gradient_sync(runner.optim_wrapper.should_sync())
