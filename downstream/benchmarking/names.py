"""Models as a command line names them: configs, checkpoints, exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.exporting.files import is_exported
from downstream.paths import find_config
from downstream.running.checkpoint.locate import CHECKPOINT_SUFFIXES, is_remote
from downstream.running.config import RunOptions, TestOptions, read_config, testing_config


@dataclass(frozen=True)
class Named:
    """A model as the command line names it.

    Attributes:
        name: In tables; no two have the same one.
        options: Its config.
        file: A checkpoint of the config, or a file of tools/export.py; None: random weights.
    """

    name: str
    options: RunOptions
    file: str | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the file is one of tools/export.py."""
        return self.file is not None and is_exported(self.file)


def named(
    options: RunOptions, files: Sequence[str], against: Sequence[str]
) -> tuple[list[Named], list[Named]]:
    """The models of a command line, and those that they are compared with.

    Args:
        options: The config.
        files: Checkpoints of it and exported files; none: the config with random weights.
        against: Likewise, or other configs.

    Raises:
        ConfigError: A word of ``files`` is a config, or a model is named twice.
    """
    wrong = next((word for word in files if _is_config(word)), None)
    if wrong is not None:
        raise ConfigError(f'{wrong} is a second config: give it as --against {wrong}.')
    own = [Named(word, options, word) for word in files] or [Named(_name(options), options)]
    others = [
        Named(_name(RunOptions(word)), RunOptions(word))
        if _is_config(word)
        else Named(word, options, word)
        for word in against
    ]
    models = _told_apart([*own, *others])
    return models[: len(own)], models[len(own) :]


def _told_apart(models: Sequence[Named]) -> list[Named]:
    """The models, with as many of their folders before the names of configs as these need to differ."""
    names = [one.name for one in models]
    folders = 0
    while twice := {name for name in names if names.count(name) > 1}:
        folders += 1
        longer = [
            _name(one.options, folders) if one.file is None and name in twice else name
            for one, name in zip(models, names)
        ]
        if longer == names:  # also with all folders that they are in
            one = models[next(place for place, name in enumerate(names) if name in twice)]
            raise ConfigError(
                f'{one.file or one.options.config} is named twice; name each model once.'
            )
        names = longer
    return [replace(one, name=name) for one, name in zip(models, names)]


def _is_config(word: str) -> bool:
    if is_remote(word) or is_exported(word) or Path(word).suffix in CHECKPOINT_SUFFIXES:
        return False
    return Path(word).suffix == '.py' or not Path(word).is_file() or '::' in word


def _name(options: RunOptions, folders: int = 0) -> str:
    """A config with what the command line changes in it, so that it can be compared with itself.

    Args:
        options: The config.
        folders: How many of the folders that it is in are named before it.
    """
    stem = config_stem(options.config)
    path = find_config(options.config) if folders else None
    if path is not None:
        stem = Path(*path.resolve().parent.parts[-folders:], stem).as_posix()
    bands = ' '.join(map(str, options.bands or ()))
    changes = [
        options.backbone,
        f'--channels {options.channels}' if options.channels else None,
        f'--bands {bands}' if bands else None,
        *(f'{key}={value}' for key, value in options.cfg_options.items()),
    ]
    return ' '.join([stem, *filter(None, changes)])


def config_stem(config: str) -> str:
    """The name of a config without folder, package and suffix."""
    return Path(config.rpartition('::')[2]).name.removesuffix('.py')


def config_of(named: Named) -> Config:
    """The complete config of a model; of an exported file that of the model which it came from.

    Without a checkpoint a detector returns as many objects as it may: random weights would find none, and
    what comes after the network would go untimed.

    Raises:
        UserError: The config or the checkpoint cannot be used.
    """
    options = named.options
    if named.is_exported:
        return read_config(options)
    if named.file is not None:
        shared = {key: getattr(options, key) for key in vars(RunOptions(''))}
        return testing_config(TestOptions(**shared, checkpoint=named.file))
    cfg = read_config(options)
    cfg.model.backbone.init_cfg = None
    _accept_all(cfg.model.get('test_cfg'))
    return cfg


def _accept_all(rules: object) -> None:
    if isinstance(rules, (list, tuple)):
        for one in rules:
            _accept_all(one)
    elif isinstance(rules, Mapping):
        if 'score_thr' in rules:
            rules['score_thr'] = 0.0  # type: ignore[index]
        for one in rules.values():
            _accept_all(one)
