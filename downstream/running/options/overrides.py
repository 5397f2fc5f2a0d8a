"""``--cfg-options``: changes of a config, refused where they would do nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec

from mmengine import registry
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner

from backbones.base import accepted_arguments
from backbones.errors import ConfigError

# Keys that the suite reads besides those of the Runner.
_READ = {
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sharded',
    'tta_model',
    'tta_pipeline',
}
# What a visualizer's back end needs that mmengine does not bring.
_BACKENDS = {
    'AimVisBackend': 'aim',
    'ClearMLVisBackend': 'clearml',
    'DVCLiveVisBackend': 'dvclive',
    'MLflowLogger': 'mlflow',
    'MLflowVisBackend': 'mlflow',
    'NeptuneVisBackend': 'neptune',
    'TensorboardLogger': 'tensorboard',
    'TensorboardVisBackend': 'tensorboard',
    'TrackioLogger': 'trackio',
    'WandbLogger': 'wandb',
    'WandbVisBackend': 'wandb',
}


def merge(cfg: Config, changes: Mapping[str, object]) -> None:
    """Change ``cfg`` by dotted keys; nothing is changed if one of them would have no effect.

    Arguments that an optimizer of another type does not take are left out, and that is logged.

    Args:
        cfg: A config.
        changes: ``{'optim_wrapper.optimizer.lr': 1e-3, ...}``.

    Raises:
        ConfigError: A key is unknown, or leads through something that is no dict or list.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for key in changes:
            # Changes of one command line may build on each other.
            siblings = [other for other in changes if other != key]
            _check_key(cfg, key, siblings)
        _drop_arguments_of_another_optimizer(cfg, changes)
    try:
        cfg.merge_from_dict(dict(changes))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise ConfigError(f'--cfg-options {", ".join(changes)}: {reason}') from error


def _check_key(cfg: Config, key: str, siblings: list[str]) -> None:
    node: object = cfg
    *parents, last = key.split('.')
    for depth, part in enumerate([*parents, last]):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                where = '.'.join(key.split('.')[:depth])
                raise ConfigError(
                    f'--cfg-options {key}: {where} is a list of {len(node)}, counted from 0; give a '
                    f'number below {len(node)} in the place of {part!r}, or the whole list.'
                )
            node = node[int(part)]
            continue
        if not isinstance(node, (Config, Mapping)):
            return
        if part not in node:
            prefix = '.'.join(key.split('.')[:depth])
            if not _is_made_by(prefix, siblings):
                _require_known(cfg, node, key, part, prefix)
            return
        node = node[part]


def _is_made_by(prefix: str, siblings: list[str]) -> bool:
    """Whether another change sets the type of what ``prefix`` names."""
    return bool(prefix) and f'{prefix}.type' in siblings


def _require_known(cfg: Config, node: Mapping, key: str, part: str, prefix: str) -> None:
    """ConfigError if nothing reads ``part``, which ``node`` does not have."""
    if not prefix:
        keys = {*inspect.signature(Runner.__init__).parameters, *_READ, *cfg.keys()}
        if part in keys:
            return
        elsewhere = [path for path in _paths(cfg) if path.split('.')[-1] == part]
        near = elsewhere[:3] or get_close_matches(part, keys, 3, 0.6)
        raise ConfigError(
            f'--cfg-options {key}: the config has no {part!r}, so it would do nothing.'
            + (f' Did you mean {" or ".join(near)}?' if near else '')
        )
    if 'type' not in node:
        near = get_close_matches(part, node.keys(), 2, 0.8)
        if near:
            raise ConfigError(
                f'--cfg-options {key}: {prefix} has no {part!r}. Did you mean {" or ".join(near)}?'
            )
        print_log(f'--cfg-options {key}: new in {prefix}; the config did not have it.', 'current')
        return
    classes = _classes_of(node['type'])
    accepted = set().union(*map(accepted_arguments, classes))
    if any(issubclass(cls, OptimWrapper) for cls in classes):
        accepted |= {'constructor', 'paramwise_cfg'}
    if not classes or part in accepted:
        return
    takes_any = any(map(_takes_any, classes))
    near = get_close_matches(part, accepted | node.keys(), 2, 0.85 if takes_any else 0.6)
    if near or not takes_any:
        known = (
            f'Did you mean {" or ".join(near)}?'
            if near
            else f'Known: {", ".join(sorted(accepted))}.'
        )
        raise ConfigError(
            f'--cfg-options {key}: {_name(node["type"])} ({prefix}) has no {part!r}. {known}'
        )


def _paths(node: object, prefix: str = '') -> Iterator[str]:
    """Dotted keys of all that dicts within dicts hold."""
    if isinstance(node, (Config, Mapping)):
        for name, value in node.items():
            yield f'{prefix}{name}'
            yield from _paths(value, f'{prefix}{name}.')


def _takes_any(cls: type) -> bool:
    """Whether a class has ``**kwargs``: it may use them itself or hand them on."""
    first = next(base for base in cls.__mro__ if '__init__' in vars(base))
    parameters = inspect.signature(vars(first)['__init__']).parameters.values()
    return any(p.kind == p.VAR_KEYWORD for p in parameters)


def _classes_of(kind: object) -> list[type]:
    """The classes that a ``type`` names, in all of mmengine's registries."""
    if isinstance(kind, type):
        return [kind]
    found = []
    for some in vars(registry).values() if isinstance(kind, str) else ():
        if isinstance(some, Registry):
            try:
                cls = some.get(kind)
            except (ImportError, KeyError, RuntimeError):
                continue
            if isinstance(cls, type) and cls not in found:
                found.append(cls)
    return found


def _name(kind: object) -> str:
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def _drop_arguments_of_another_optimizer(cfg: Config, changes: Mapping[str, object]) -> None:
    kind = changes.get('optim_wrapper.optimizer.type')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    if not kind or not optimizer or optimizer.get('type') == kind:
        return
    classes = _classes_of(kind)
    if not classes or any(map(_takes_any, classes)):
        return
    accepted = set().union({'type'}, *map(accepted_arguments, classes))
    dropped = [name for name in optimizer if name not in accepted]
    for name in dropped:
        optimizer.pop(name)
    if dropped:
        print_log(
            f'optim_wrapper.optimizer: {kind} takes no {", ".join(dropped)}; left out.', 'current'
        )


def check_values(cfg: Config) -> None:
    """Refuse values that mmengine would stop at with a traceback.

    Raises:
        ConfigError: A batch size is no number, or a visualizer needs a package that is missing.
    """
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        size = (cfg.get(loader) or {}).get('batch_size', 1)
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f'{loader}.batch_size={size!r}: give a whole number of at least 1.')
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or []
    if not isinstance(backends, (list, tuple)) or not all(isinstance(b, Mapping) for b in backends):
        raise ConfigError(
            f"visualizer.vis_backends={backends!r:.80}: give a list of dicts, or change the first one's "
            'type: visualizer.vis_backends.0.type=TensorboardVisBackend.'
        )
    for backend in backends:
        package = _BACKENDS.get(_name(backend.get('type')))
        if package and not is_installed(package):
            raise ConfigError(
                f'visualizer.vis_backends: {backend["type"]} needs {package}, which is not installed: '
                f'pip install {package}.'
            )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of the same name, such as wandb's files, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None
