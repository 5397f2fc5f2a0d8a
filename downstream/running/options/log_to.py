"""Loggers by name: ``--log-to``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.running.loggers import MLflowLogger, TensorboardLogger, TrackioLogger, WandbLogger

from .overrides import check_values, is_installed

LOGGERS = {
    cls.service.title: cls.__name__
    for cls in (TensorboardLogger, WandbLogger, MLflowLogger, TrackioLogger)
}


def add_loggers(cfg: Config, names: Sequence[str]) -> None:
    """Add loggers to the visualizer of a config, unless it has them.

    Args:
        cfg: A training config.
        names: Of :data:`LOGGERS`.

    Raises:
        ConfigError: A name is unknown, or a package is missing.
    """
    unknown = [name for name in names if name not in LOGGERS]
    if unknown:
        raise ConfigError(f'--log-to {unknown[0]}: there are {", ".join(LOGGERS)}.')
    if names:
        visualizer = cfg.setdefault('visualizer', dict(type='Visualizer'))
        backends = list(visualizer.get('vis_backends') or [])
        present = {backend.get('type') for backend in backends}
        chosen = [LOGGERS[name] for name in dict.fromkeys(names)]
        visualizer.vis_backends = [
            *backends,
            *(dict(type=kind) for kind in chosen if kind not in present),
        ]
    check_values(cfg)
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or []:
        if backend.get('type') == MLflowLogger.__name__:
            _require_database(backend.get('tracking_uri') or os.environ.get('MLFLOW_TRACKING_URI'))


def drop_loggers(cfg: Config) -> None:
    """Remove the loggers from a config, for what is no training."""
    visualizer = cfg.get('visualizer') or {}
    backends = visualizer.get('vis_backends')
    if isinstance(backends, (list, tuple)):
        visualizer['vis_backends'] = [
            one
            for one in backends
            if not hasattr(one, 'get') or one.get('type') not in LOGGERS.values()
        ]


def _require_database(uri: str | None) -> None:
    """ConfigError unless MLflow can write to its data base; mlflow-skinny brings no driver."""
    missing = [name for name in ('sqlalchemy', 'alembic') if not is_installed(name)]
    if missing and (uri is None or uri.startswith('sqlite:')):
        raise ConfigError(
            f'MLflow without a server needs {" and ".join(missing)}, not installed: '
            f'pip install {" ".join(missing)}; or set MLFLOW_TRACKING_URI to a server.'
        )
