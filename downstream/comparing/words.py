"""The commands of a comparison: the suite's own tools, with the words that a person would type."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from backbones.errors import ConfigError
from downstream.paths import TOOLS
from downstream.running.config import TrainOptions

from .identity import split
from .plan import CompareOptions, Plan
from .state import Run

# Options of tools/train.py that take a value, and those that are there or not.
_VALUED = ('epochs', 'lr', 'batch_size', 'image_size', 'amp', 'channels')
_SWITCHES = ('auto_scale_lr', 'keep_batch')


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: The program and its arguments.
        environment: Variables that it needs beside those that are set.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        """As it can be pasted into a shell."""
        variables = (f'{key}={shlex.quote(value)}' for key, value in self.environment.items())
        return ' '.join([*variables, shlex.join(self.words)])


class Commands:
    """Makes the commands of a comparison.

    Args:
        made: The comparison.
        options: Its command line.

    Raises:
        ConfigError: This machine cannot run them.
    """

    def __init__(self, made: Plan, options: CompareOptions) -> None:
        self.made, self.options = made, options
        self._devices = _devices(options)
        if options.launcher != 'none' and not self._script('train').is_file():
            raise ConfigError(
                f'--launcher {options.launcher} needs {self._script("train").name}, which a wheel does '
                'not have; start from a clone.'
            )

    def train(self, run: Run, slot: int) -> Command:
        """The training of ``run``; it goes on from the newest checkpoint if there is one."""
        backbone, weights = split(run.backbone)
        words = [
            *('--backbone', backbone),
            *(('--weights', weights) if weights else ()),
            *_settings(self.made.recipe),
            *('--check-data', 'no'),
            *(('--resume',) if run.started else ()),
            *('--cfg-options', *self.options.cfg_words, f'randomness.seed={run.seed}'),
        ]
        return self._command('train', [self.made.recipe.config], run, words, slot)

    def test(self, run: Run, slot: int) -> Command:
        """The test of ``run``, by the complete config in its work dir.

        Args:
            run: Its training need not have ended, if the command is only shown.
            slot: Which of the runs that go on at the same time it is.
        """
        stem = Path(self.made.recipe.config.rpartition('::')[2]).stem
        config = run.dumped_config() or run.folder / f'{stem}.py'
        checkpoint = run.checkpoint or run.folder / self._last_name(run)
        return self._command('test', [_shown(config), _shown(checkpoint)], run, [], slot)

    def _last_name(self, run: Run) -> str:
        config = run.identity['config']
        epochs = config.get('train_cfg.max_epochs')
        return f'epoch_{epochs}.pth' if epochs else f'iter_{config.get("train_cfg.max_iters")}.pth'

    def _script(self, tool: str) -> Path:
        kind = 'dist' if self.options.launcher == 'pytorch' else 'slurm'
        return TOOLS / f'{kind}_{tool}.sh'

    def _command(
        self, tool: str, first: Sequence[str], run: Run, words: Sequence[str], slot: int
    ) -> Command:
        options, folder = self.options, _shown(run.folder)
        environment = dict(self._devices[slot])
        named = ['--work-dir', folder, *words]
        if options.launcher == 'none':
            start = [sys.executable, _shown(TOOLS / f'{tool}.py'), *first]
        elif options.launcher == 'pytorch':
            start = ['bash', _shown(self._script(tool)), *first, str(options.gpus)]
            environment['PYTHON'] = sys.executable
        else:
            job = f'{tool}-{run.folder.parent.name}-{run.seed}'
            start = ['bash', _shown(self._script(tool)), str(options.partition), job, *first]
            environment |= {'GPUS': str(options.gpus), 'PYTHON': sys.executable}
            if tool == 'train':  # whose work dir is an argument of the script
                start, named = [*start, folder], list(words)
        return Command((*start, *named), environment)


def _settings(recipe: TrainOptions) -> list[str]:
    """The everyday settings of ``recipe`` as words."""
    words: list[str] = []
    for name in _VALUED:
        value = getattr(recipe, name)
        if value is not None:
            words += [f'--{name.replace("_", "-")}', str(value)]
    for name in _SWITCHES:
        if getattr(recipe, name):
            words.append(f'--{name.replace("_", "-")}')
    if recipe.bands:
        words += ['--bands', *map(str, recipe.bands)]
    return words


def _shown(path: Path) -> str:
    """A path as it is shortest from here."""
    here = Path.cwd()
    path = path.absolute()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _devices(options: CompareOptions) -> list[dict[str, str]]:
    """What each of the runs that go on at the same time has of this machine, as variables."""
    jobs = options.jobs
    if jobs == 1 or options.launcher == 'slurm':
        return [{}] * jobs
    if not torch.cuda.is_available():
        if 'OMP_NUM_THREADS' in os.environ:
            return [{}] * jobs
        threads = max(1, (os.cpu_count() or 1) // (jobs * options.gpus))
        return [{'OMP_NUM_THREADS': str(threads)}] * jobs
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
    if jobs * options.gpus > len(names):
        raise ConfigError(
            f'--jobs {jobs} of {options.gpus} GPUs each need {jobs * options.gpus} GPUs; there are '
            f'{len(names)}.'
        )
    parts = (names[i * options.gpus : (i + 1) * options.gpus] for i in range(jobs))
    return [{'CUDA_VISIBLE_DEVICES': ','.join(part)} for part in parts]
