"""What the suite's runs can rely on, for configs that do not come from its recipes."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings

from downstream.paths import CONFIGS

_RUNTIME = CONFIGS / '_base_' / 'runtime' / 'default.py'
_STOCK_CHECKPOINTS = ('CheckpointHook', 'mmengine.CheckpointHook')
_REGISTERED_BY = 'downstream.running'


def use_safe_hooks(cfg: Config) -> None:
    """Give a config of mmdet or mmseg the hooks that the suite's recipes have.

    Those are atomic checkpoints, a stop at bad losses, hangs and signals, progress, and pictures of the
    first batches. A hook that the config has, or sets to None, stays; of mmengine's hook for checkpoints
    the arguments stay.

    Args:
        cfg: A config; changed in place unless it imports the suite's hooks itself.
    """
    if _REGISTERED_BY in imported_by(cfg):
        return
    import_with(cfg, _REGISTERED_BY)
    hooks = cfg.get('default_hooks') or {}
    own = Config.fromfile(_RUNTIME).default_hooks
    cfg.default_hooks = {**own, **hooks}
    checkpoint = cfg.default_hooks.checkpoint
    if checkpoint and checkpoint.get('type') in _STOCK_CHECKPOINTS:
        checkpoint.type = own.checkpoint.type


def imported_by(cfg: Config) -> list[str]:
    """The modules that ``cfg`` imports when it is read."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def import_with(cfg: Config, module: str) -> None:
    """Import a module, here and wherever ``cfg`` is read again."""
    names = imported_by(cfg)
    if module not in names:
        known = cfg.get('custom_imports') or {}
        cfg.custom_imports = ConfigDict({**known, 'imports': [*names, module]})
    import_modules_from_strings(module)
