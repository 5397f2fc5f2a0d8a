"""A backbone put into a detector or a segmenter: everything that depends on it is told by it.

Three doors to one mechanism: ``--backbone NAME`` of the command lines and :func:`drop_in` change a
config; :func:`detector` and :func:`segmentor` are one line in a config file. What a name may be stands
in :mod:`backbones.names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import lcm

from mmengine.config import Config, ConfigDict

from backbones.errors import ConfigError

from .facts import Fitting, fit
from .report import report


def detector(name: str, **backbone_args) -> dict:
    """The ``model`` fields of an FPN detector on the backbone ``name``.

    Args:
        name: See :mod:`backbones.names`.
        backbone_args: Further arguments of the backbone's class.

    Raises:
        ConfigError: There is no such backbone, or it breaks the contract.
        WeightsError: There are no such weights.
    """
    fitting = fit(name, 'detection', **backbone_args)
    return {
        'backbone': fitting.config,
        'neck': {'in_channels': list(fitting.channels)},
        'data_preprocessor': _preprocessor(fitting, 'detection'),
    }


def segmentor(name: str, aux_index: int = 2, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter whose auxiliary head reads feature map ``aux_index``.

    Arguments and errors as in :func:`detector`.
    """
    fitting = fit(name, 'segmentation', **backbone_args)
    channels = list(fitting.channels)
    return {
        'backbone': fitting.config,
        'decode_head': {'in_channels': channels, 'in_index': list(range(len(channels)))},
        'auxiliary_head': {'in_channels': channels[aux_index], 'in_index': aux_index},
        'data_preprocessor': _preprocessor(fitting, 'segmentation'),
    }


def linear_segmentor(name: str, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter with one head, which reads the last feature map as it is.

    Arguments and errors as in :func:`detector`.
    """
    fitting = fit(name, 'segmentation', **backbone_args)
    last = fitting.channels[-1]
    return {
        'backbone': fitting.config,
        'decode_head': {
            'in_channels': last,
            'channels': last,  # no convolution stands before the classifier
            'in_index': len(fitting.channels) - 1,
        },
        'data_preprocessor': _preprocessor(fitting, 'segmentation'),
    }


def drop_in(cfg: Config, name: str, **backbone_args) -> str:
    """Change ``cfg``, the config of a detector or a segmenter, to one on the backbone ``name``.

    The recipe stays: schedule, learning rate and its decay, drop path where the backbone has it.

    Returns:
        What was resolved, as a text of several lines.

    Raises:
        ConfigError: There is no such backbone, it breaks the contract, or does not fit this model.
        WeightsError: There are no such weights.
    """
    task = 'segmentation' if 'decode_head' in cfg.model else 'detection'
    old = cfg.model.get('backbone') or {}
    # Four stages are all that ConvNeXts have: a recipe for frozen features stays one.
    recipe = old.get('drop_path_rate'), old.get('frozen_stages') == 4
    fitting = fit(name, task, *recipe, **backbone_args)
    levels = _levels_of(cfg.model)
    if levels and len(fitting.channels) > levels and 'out_indices' not in fitting.config:
        last = tuple(range(len(fitting.channels) - levels, len(fitting.channels)))
        fitting = fit(name, task, *recipe, **backbone_args, out_indices=last)
    model = deepcopy(cfg.model)
    model.backbone = ConfigDict(fitting.config)
    model.setdefault('data_preprocessor', ConfigDict()).update(_preprocessor(fitting, task))
    tell = _tell_detector if task == 'detection' else _tell_segmentor
    tell(model, fitting)
    cfg.model = model
    return report(cfg, fitting, task)


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


def _preprocessor(fitting: Fitting, task: str) -> dict:
    fields: dict = {}
    if fitting.mean is not None:
        fields |= {'mean': list(fitting.mean), 'std': list(fitting.std), 'bgr_to_rgb': True}
    if task == 'detection':
        fields['pad_size_divisor'] = lcm(max(fitting.strides), fitting.divisor)
    elif fitting.divisor > 1:
        fields['test_cfg'] = {'size_divisor': fitting.divisor}
    return fields


def _levels_of(model: Mapping) -> int | None:
    """How many maps a model reads, where its config says so."""
    neck = model.get('neck') or {}
    head = model.get('decode_head') or {}
    for channels in (neck.get('in_channels'), head.get('in_channels') if not neck else None):
        if isinstance(channels, Sequence):
            return len(channels)
    return None


def _tell_detector(model: ConfigDict, fitting: Fitting) -> None:
    if not model.get('neck'):
        raise ConfigError(
            f'backbone {fitting.name!r}: this detector ({model.get("type")}) has no neck that could '
            'be told the channels.'
        )
    anchors = ((model.get('rpn_head') or {}).get('anchor_generator') or {}).get('strides')
    wanted = tuple(anchors[: len(fitting.strides)]) if anchors else fitting.strides
    if tuple(fitting.strides) != wanted or (
        anchors and len(fitting.strides) < 4 <= len(anchors) - 1
    ):
        raise ConfigError(
            f'backbone {fitting.name!r} gives maps of strides {fitting.strides}; the anchors of this '
            f'detector are for {tuple(anchors)}. Return one map each at strides 4, 8, 16 and 32.'
        )
    model.neck.in_channels = list(fitting.channels)


def _tell_segmentor(model: ConfigDict, fitting: Fitting) -> None:
    count = len(fitting.channels)
    for key in ('decode_head', 'auxiliary_head', 'neck'):
        heads = model.get(key)
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if not head:
                continue
            index = head.get('in_index', list(range(count)) if key != 'auxiliary_head' else 2)
            indices = [index] if isinstance(index, int) else list(index)
            if any(not -count <= i < count for i in indices):
                raise ConfigError(
                    f'backbone {fitting.name!r} gives {count} maps; {key} of this config reads maps '
                    f'{indices}.'
                )
            channels = [fitting.channels[i] for i in indices]
            head.in_channels = channels[0] if isinstance(index, int) else channels
            if head.get('num_convs') == 0:
                head.channels = head.in_channels  # no convolution stands before the classifier
    crop = model.data_preprocessor.get('size')
    if crop and any(side % fitting.divisor for side in crop):
        raise ConfigError(
            f'backbone {fitting.name!r} needs sides that are multiples of {fitting.divisor}; the crops '
            f'of this config are {tuple(crop)}.'
        )
