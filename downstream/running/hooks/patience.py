"""Early stopping: a run ends when its figure no longer improves."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from backbones.errors import ConfigError

# Where checkpoints keep what a resumed run must know.
_KEY = 'patience'


@HOOKS.register_module()
class PatienceHook(Hook):
    """Stops training after ``patience`` evaluations in a row without a higher figure.

    Unlike mmengine's ``EarlyStoppingHook`` it counts an equal figure as no improvement, and a resumed
    run remembers the best figure and how many evaluations did not reach it.

    Args:
        monitor: Key of the figure, e.g. ``'coco/bbox_mAP'`` or ``'mIoU'``; higher is better.
        patience: How many evaluations may pass.

    Raises:
        ConfigError: An evaluation does not report ``monitor``.
    """

    priority = 'LOWEST'

    def __init__(self, monitor: str, patience: int) -> None:
        self.monitor, self.patience = monitor, patience

    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        if not metrics or self.monitor not in metrics:
            raise ConfigError(
                f'default_hooks.patience.monitor={self.monitor!r} is no figure of the evaluation; it '
                f'reports {", ".join(metrics or ())}.'
            )
        current, hub = float(metrics[self.monitor]), runner.message_hub
        state = hub.get_info(_KEY) if _KEY in hub.runtime_info else None
        # Written this way a figure that is not a number is no improvement.
        if state is None or current > state['best']:
            state = {'best': current, 'waited': 0}
        else:
            state = {**state, 'waited': state['waited'] + 1}
        hub.update_info(_KEY, state)
        if state['waited'] >= self.patience:
            runner.train_loop.stop_training = True
            runner.logger.info(
                f'Training stops early: {self.monitor} has not risen above {state["best"]:.4f} in '
                f'{state["waited"]} evaluations.'
            )
