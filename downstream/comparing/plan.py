"""The runs of a comparison, checked before the first of them starts."""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from backbones.errors import ConfigError, UserError
from backbones.weights.download import local_file, sha256
from backbones.weights.sources import find
from downstream.data.checks.datasets import check_datasets
from downstream.own.prepare import DataOptions, prepare
from downstream.running.checkpoint.files import write_text
from downstream.running.config import TrainOptions, task_of, training_config
from downstream.zoo.complexity import build_on_meta, counted_size, gmacs, parameters

from .identity import code_of, differences, flat, split
from .state import RECIPE, Run, read_record

_SEED = 'randomness.seed'


@dataclass(frozen=True)
class CompareOptions:
    """What the command line of a comparison says.

    Attributes:
        recipe: The recipe and its settings, without backbone and work dir.
        backbones: Names that ``--backbone`` takes, or ``NAME=WEIGHTS`` with what ``--weights`` takes;
            differences are to the first one.
        seeds: Number of runs of each backbone; their seeds are 0, 1, ...
        work_dir: Folder of the comparison; None: ``work_dirs/compare_<config name>``.
        cfg_words: The words of ``--cfg-options`` as they were given.
        data: A data set of one's own.
        check_data: As in :func:`downstream.running.train.train`, once for all runs.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        gpus: Processes of each run.
        partition: Of Slurm.
        jobs: Runs at a time.
    """

    recipe: TrainOptions
    backbones: tuple[str, ...]
    seeds: int = 1
    work_dir: str | None = None
    cfg_words: tuple[str, ...] = ()
    data: DataOptions | None = None
    check_data: str = 'quick'
    launcher: str = 'none'
    gpus: int = 1
    partition: str | None = None
    jobs: int = 1


@dataclass(frozen=True)
class Candidate:
    """A backbone in the model of the recipe.

    Attributes:
        name: Of the backbone, with ``=`` and its weights if others than its own were named.
        folder: Of its runs.
        parameters: Of the whole model.
        backbone_parameters: Of the backbone.
        gmacs: Billions of multiply-adds of one image; None where the counter does not know the model.
        size: Height and width of this image.
        config: The complete config, flat.
        weights: ``{'weights': SHA-256}`` where weights were named: a file may be written anew.
    """

    name: str
    folder: Path
    parameters: int
    backbone_parameters: int
    gmacs: float | None
    size: tuple[int, int] | None
    config: dict
    weights: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A comparison that can start.

    Attributes:
        task: ``'detection'`` or ``'segmentation'``.
        recipe: Options that train one of the runs, but for backbone, seed and work dir.
        folder: Of the comparison.
        candidates: In the order of the table.
        runs: In the order in which they start: all backbones with the first seed, then the next one.
    """

    task: str
    recipe: TrainOptions
    folder: Path
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]

    def runs_of(self, candidate: Candidate) -> list[Run]:
        """The runs of a backbone, by seed."""
        return [run for run in self.runs if run.backbone == candidate.name]


def plan(options: CompareOptions) -> Plan:
    """Check recipe, data and every backbone; find out what has been done.

    Raises:
        UserError: Something of it is not possible, or the folder belongs to another comparison.
    """
    _check_options(options)
    folder = Path(options.work_dir or f'work_dirs/compare_{_stem(options)}')
    recipe = options.recipe
    if options.data:
        # Once for all runs, so that all have the same config and the same data.
        own = replace(recipe, work_dir=str(folder / 'recipe'), launcher='pytorch')
        with _as_in_a_run(options):
            recipe = replace(prepare(own, options.data), work_dir=None, launcher='none')
    with _as_in_a_run(options):
        cfg = _quietly(recipe)
        _check_same_recipe(folder, cfg, options.gpus)
        candidates = tuple(
            _candidate(name, recipe, directory, cfg)
            for name, directory in zip(options.backbones, _folders(folder, options.backbones))
        )
    if options.check_data != 'no':
        check_datasets(cfg, ('train', 'val', 'test'), full=options.check_data == 'full')
    runs = []
    for seed in range(options.seeds):
        for candidate in candidates:
            identity = {
                'backbone': candidate.name,
                'seed': seed,
                'processes': options.gpus,
                'code': code_of(split(candidate.name)[0]),
                'config': candidate.config,
                **candidate.weights,
            }
            runs.append(Run(candidate.name, seed, candidate.folder / f'seed{seed}', identity))
            runs[-1].read()
    return Plan(task_of(cfg), recipe, folder, candidates, tuple(runs))


def record_recipe(made: Plan, options: CompareOptions) -> None:
    """Write which recipe the folder of a comparison belongs to."""
    made.folder.mkdir(parents=True, exist_ok=True)
    with _as_in_a_run(options):
        identity = _recipe_identity(_quietly(made.recipe), options.gpus)
    write_text(made.folder / RECIPE, json.dumps(identity, indent=1) + '\n')


def _check_options(options: CompareOptions) -> None:
    for name in ('seeds', 'jobs', 'gpus'):
        if getattr(options, name) < 1:
            raise ConfigError(f'--{name} {getattr(options, name)}: give at least 1.')
    twice = [name for name, count in Counter(options.backbones).items() if count > 1]
    if twice:
        raise ConfigError(f'--backbones names {twice[0]} twice; name each once.')
    if _SEED in options.recipe.cfg_options or 'randomness' in options.recipe.cfg_options:
        raise ConfigError(
            f'--cfg-options {_SEED}: each run gets a seed of its own; leave it out, --seeds N says '
            'how many.'
        )
    if options.recipe.batch_size == 'auto':
        raise ConfigError(
            '--batch-size auto differs between backbones, and with it the recipe; give a number.'
        )
    if options.gpus > 1 and options.launcher == 'none':
        raise ConfigError(f'--gpus {options.gpus} needs --launcher pytorch or slurm.')
    if (options.launcher == 'slurm') != (options.partition is not None):
        raise ConfigError('--launcher slurm and --partition NAME go together; give both or none.')


def _stem(options: CompareOptions) -> str:
    stem = Path(options.recipe.config.rpartition('::')[2]).stem
    if options.data:
        stem += f'_{Path(options.data.source).resolve().stem}'
    return re.sub(r'[^\w.-]+', '-', stem)


def _folders(folder: Path, backbones: Sequence[str]) -> Iterator[Path]:
    """A folder for each name; names that look alike as folders are told apart by a number."""
    taken: Counter[str] = Counter()
    for name in backbones:
        word = re.sub(r'[^\w.-]+', '-', name)
        taken[word] += 1
        yield folder / (word if taken[word] == 1 else f'{word}_{taken[word]}')


@contextmanager
def _as_in_a_run(options: CompareOptions) -> Iterator[None]:
    """The environment that the processes of a run find, as far as a config depends on it."""
    former = os.environ.get('WORLD_SIZE')
    os.environ['WORLD_SIZE'] = str(options.gpus)
    try:
        yield
    finally:
        os.environ.pop('WORLD_SIZE')
        if former is not None:
            os.environ['WORLD_SIZE'] = former


def _quietly(options: TrainOptions) -> Config:
    """The complete config of a training, without the report of its backbone."""
    with redirect_stdout(io.StringIO()):
        return training_config(replace(options, launcher='pytorch'))


def _recipe_identity(cfg: Config, processes: int) -> dict:
    return {'processes': processes, 'config': flat(cfg)}


def _check_same_recipe(folder: Path, cfg: Config, processes: int) -> None:
    """ConfigError if ``folder`` is that of another comparison."""
    former = read_record(folder / RECIPE)
    new = _recipe_identity(cfg, processes)
    if former is None:
        others = [path for path in folder.glob('*') if path.name != 'recipe']
        if others and not any(folder.glob('*/seed*/run.json')):
            raise ConfigError(
                f'{folder} holds something else ({others[0].name}); name another folder with '
                '--work-dir.'
            )
    elif former != new:
        raise ConfigError(
            f'{folder} holds a comparison of another recipe ({differences(former, new)}); name '
            'another folder with --work-dir.'
        )


def _candidate(name: str, recipe: TrainOptions, folder: Path, own: Config) -> Candidate:
    backbone, weights = split(name)
    cfg = _quietly(replace(recipe, backbone=backbone, weights=weights))
    checkpoint = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    named = {}
    if checkpoint:
        file = local_file(find(checkpoint))  # fetched once, before all runs need it
        named = {'weights': sha256(file)} if weights else {}
    try:
        model: Any = build_on_meta(cfg)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f'backbone {name!r} cannot be built in the model of this recipe: '
            f'{type(error).__name__}: {error}'
        ) from error
    counted, size = None, None
    try:
        size = counted_size(cfg)
        counted = gmacs(model, size)
    except Exception as error:  # a head that the counter does not know, or an operator without meta
        print_log(f'{name}: multiply-adds cannot be counted ({type(error).__name__}).', 'current')
    return Candidate(
        name, folder, parameters(model), parameters(model.backbone), counted, size, flat(cfg), named
    )
