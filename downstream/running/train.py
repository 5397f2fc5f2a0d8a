"""Training: a config and a command line's words in, a trained model and its figures out."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS

from backbones.errors import ConfigError
from downstream.atomic import require_folder
from downstream.data.checks.datasets import check_datasets
from downstream.distributed.processes import is_first_process

from .config import TrainOptions, training_config
from .options.channels import set_trained_statistics
from .runner import SuiteRunner


def train(options: TrainOptions, check_data: str = 'quick') -> SuiteRunner:
    """Train as ``options`` say; checkpoints, log and complete config go to the work dir.

    Args:
        options: Config and command line.
        check_data: ``'quick'``, ``'full'`` (open every file first) or ``'no'``. ``'full'`` is for one
            process: others would wait for the first one longer than they do.

    Returns:
        The runner, after the last epoch.

    Raises:
        UserError: Config, data or checkpoint cannot be used; nothing was written.
    """
    if check_data == 'full' and options.launcher != 'none':
        raise ConfigError(
            '--check-data full opens every file in one process, longer than the others wait for it. '
            'Check without a launcher first: python tools/train.py CONFIG --check-data only.'
        )
    cfg = training_config(options)
    require_folder(Path(cfg.work_dir))
    if check_data != 'no' and is_first_process():
        check_datasets(cfg, ('train', 'val'), full=check_data == 'full')
    set_trained_statistics(cfg)
    runner = build_runner(cfg)
    runner.train()
    return runner


def check_data_only(options: TrainOptions) -> None:
    """Open every file of the training and validation data that a config names, and train nothing.

    Raises:
        DataError: Something is wrong with them.
    """
    if options.launcher != 'none':
        raise ConfigError('--check-data only is for one process: leave --launcher out.')
    check_datasets(training_config(options), ('train', 'val'), full=True)
    print_log('Every file of the training and validation data can be read.', 'current')


def build_runner(cfg: Config) -> SuiteRunner:
    """The runner of ``cfg``; its own ``runner_type`` wins."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else SuiteRunner.from_cfg(cfg)
