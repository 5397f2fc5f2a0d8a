"""Training: a config and a command line's words in, a trained model and its figures out."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import RUNNERS

from downstream.data.checks import check_datasets
from downstream.distributed.processes import is_first_process

from .config import TrainOptions, training_config
from .runner import SuiteRunner


def train(options: TrainOptions, check_data: str = 'quick') -> SuiteRunner:
    """Train as ``options`` say; checkpoints, log and complete config go to the work dir.

    Args:
        options: Config and command line.
        check_data: ``'quick'``, ``'full'`` (open every file first) or ``'no'``.

    Returns:
        The runner, after the last epoch.

    Raises:
        UserError: Config, data or checkpoint are not as they must be; nothing was written.
    """
    cfg = training_config(options)
    if check_data != 'no' and is_first_process():
        check_datasets(cfg, ('train', 'val'), full=check_data == 'full')
    runner = build_runner(cfg)
    runner.train()
    return runner


def build_runner(cfg: Config) -> SuiteRunner:
    """The runner of ``cfg``; its own ``runner_type`` wins."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else SuiteRunner.from_cfg(cfg)
