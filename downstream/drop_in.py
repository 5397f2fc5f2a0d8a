"""A backbone put into a detector or a segmenter: necks and heads are told what it states itself.

Configs call :func:`detector` and :func:`segmentor` for the part of ``model`` that depends on the
backbone, so that no config repeats a channel count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS

import backbones
from backbones.errors import ConfigError

_CLASSES = {cls.family: cls for cls in (backbones.ConvNeXt, backbones.ConvNeXtV2)}


def detector(name: str, **backbone_args) -> dict:
    """The ``model`` fields of an FPN detector on the backbone ``name``; see :func:`backbone_config`."""
    backbone = backbone_config(name, **backbone_args)
    return {'backbone': backbone, 'neck': {'in_channels': list(_out_channels(backbone))}}


def segmentor(name: str, aux_index: int = 2, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter whose auxiliary head reads feature map ``aux_index``."""
    backbone = backbone_config(name, **backbone_args)
    channels = list(_out_channels(backbone))
    return {
        'backbone': backbone,
        'decode_head': {'in_channels': channels, 'in_index': list(range(len(channels)))},
        'auxiliary_head': {'in_channels': channels[aux_index], 'in_index': aux_index},
    }


def backbone_config(name: str, **backbone_args) -> dict:
    """The config of a backbone by its name.

    Args:
        name: ``<family>-<size>``, random weights, or ``<family>-<size>_<weights>``, a name of the
            table of weights: ``convnext-atto``, ``convnext-tiny_in1k``, ``convnextv2-base_fcmae``.
        backbone_args: Further arguments of the backbone's class.

    Raises:
        ConfigError: Family, size or weights are not known; the message lists what is.
    """
    architecture, _, weights = name.partition('_')
    family, _, size = architecture.partition('-')
    if family not in _CLASSES:
        raise ConfigError(f'backbone {name!r}: unknown family; known: {", ".join(_CLASSES)}.')
    cls = _CLASSES[family]
    cls.resolve_arch(size)
    config = {'type': cls.__name__, 'arch': size, **backbone_args}
    if weights:
        known = [key for key in backbones.weights_table() if key.startswith(f'{architecture}_')]
        if name not in known:
            raise ConfigError(f'backbone {name!r}: no such weights; known: {", ".join(known)}.')
        config['init_cfg'] = {'type': 'Pretrained', 'checkpoint': name}
    return config


def num_classes(base: dict, count: int, model: dict | None = None) -> dict:
    """``model``'s fields and those that set ``count`` classes in every head of the config ``base``.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        count: Number of classes.
        model: What :func:`detector` or :func:`segmentor` gave.
    """
    model = dict(model or {})
    if 'roi_head' not in base:
        for head in ('decode_head', 'auxiliary_head'):
            if base.get(head):
                model[head] = {**model.get(head, {}), 'num_classes': count}
        return model
    heads = model['roi_head'] = dict(model.get('roi_head', {}))
    for key in ('bbox_head', 'mask_head'):
        head = base['roi_head'].get(key)
        if isinstance(head, Sequence):
            heads[key] = [{**stage, 'num_classes': count} for stage in head]
        elif head:
            heads[key] = {'num_classes': count}
    return model


def _out_channels(backbone: dict) -> Sequence[int]:
    with torch.device('meta'):
        return MODELS.build(backbone).out_channels
