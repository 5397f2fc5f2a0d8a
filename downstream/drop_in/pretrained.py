"""Pretrained weights in the config of a backbone, whether or not its class knows of them."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from backbones.base import accepted_arguments

ANY_MODULE = 'AnyModule'  # backbones.completed.any_module
_FORMER_NAME = 'WithWeights'


def with_init_cfg(backbone: Mapping, init_cfg: Mapping | None) -> ConfigDict:
    """The config ``backbone`` with these pretrained weights; None: with none.

    A class that takes no ``init_cfg`` is built by :func:`backbones.completed.any_module`.
    """
    config = ConfigDict(backbone)
    config.pop('init_cfg', None)
    if config.get('type') in (ANY_MODULE, _FORMER_NAME) and not config.get('contiguous_maps'):
        config.type = config.pop('module')
    if not init_cfg:
        return config
    if not takes_init_cfg(config):
        config.module, config.type = config.type, ANY_MODULE
    config.init_cfg = ConfigDict(init_cfg)
    return config


def takes_init_cfg(backbone: Mapping) -> bool:
    """Whether the class of a config has the argument ``init_cfg``."""
    kind = backbone.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return not isinstance(cls, type) or 'init_cfg' in accepted_arguments(cls)
