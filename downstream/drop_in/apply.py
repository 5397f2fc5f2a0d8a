"""Put a backbone into a detector or a segmenter: neck, heads and preprocessor are configured from it.

Three entry points: ``--backbone NAME`` of the command lines, :func:`drop_in` for a config object, and
:func:`detector`, :func:`segmentor` and :func:`linear_segmentor` for one line in a config file.
:mod:`backbones.names` lists the names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import lcm

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from backbones.base import accepted_arguments
from backbones.errors import ConfigError
from backbones.uninitialised import on_meta

from .facts import BackboneFacts, inspect_backbone
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
    facts = inspect_backbone(name, 'detection', **backbone_args)
    return {
        'backbone': facts.config,
        'neck': {'in_channels': list(facts.channels)},
        'data_preprocessor': _preprocessor(facts, 'detection'),
    }


def segmentor(name: str, aux_index: int = 2, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter whose auxiliary head reads feature map ``aux_index``.

    Arguments and errors as in :func:`detector`.
    """
    facts = inspect_backbone(name, 'segmentation', **backbone_args)
    channels = list(facts.channels)
    return {
        'backbone': facts.config,
        'decode_head': {'in_channels': channels, 'in_index': list(range(len(channels)))},
        'auxiliary_head': {'in_channels': channels[aux_index], 'in_index': aux_index},
        'data_preprocessor': _preprocessor(facts, 'segmentation'),
    }


def linear_segmentor(name: str, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter with one linear classifier on the last feature map.

    The backbone returns this map alone, unless ``out_indices`` says otherwise: output norms of unused
    maps would train without gradients, which distributed training refuses.

    Arguments and errors as in :func:`detector`.
    """
    facts = inspect_backbone(name, 'segmentation', **backbone_args)
    takes_indices = 'out_indices' in accepted_arguments(type(facts.built))
    if len(facts.channels) > 1 and takes_indices and 'out_indices' not in facts.config:
        facts = _with_last_maps(facts, 1, 'segmentation', **backbone_args)
    last = facts.channels[-1]
    return {
        'backbone': facts.config,
        'decode_head': {
            'in_channels': last,
            'channels': last,  # there is no convolution before the classifier
            'in_index': len(facts.channels) - 1,
        },
        'data_preprocessor': _preprocessor(facts, 'segmentation'),
    }


def drop_in(cfg: Config, name: str, **backbone_args) -> str:
    """Put the backbone ``name`` into ``cfg``, the config of a detector or a segmenter.

    The recipe is not changed: schedule, learning rate and its decay, and drop path where the backbone
    has it.

    Returns:
        A report of several lines: what was configured from the backbone.

    Raises:
        ConfigError: There is no such backbone, it breaks the contract, or the model cannot use it.
        WeightsError: There are no such weights.
    """
    task = 'segmentation' if 'decode_head' in cfg.model else 'detection'
    old = cfg.model.get('backbone') or {}
    recipe = old.get('drop_path_rate'), _trains_no_stage(old)
    facts = inspect_backbone(name, task, *recipe, **backbone_args)
    count = _number_of_maps(cfg.model)
    if count and len(facts.channels) > count and 'out_indices' not in facts.config:
        facts = _with_last_maps(facts, count, task, *recipe, **backbone_args)
    model = deepcopy(cfg.model)
    model.pop(
        'pretrained', None
    )  # weights of the old backbone, handed on to whatever backbone there is
    model.backbone = ConfigDict(facts.config)
    model.setdefault('data_preprocessor', ConfigDict()).update(_preprocessor(facts, task))
    configure = _configure_detector if task == 'detection' else _configure_segmentor
    configure(model, facts)
    cfg.model = model
    return report(cfg, facts, task)


def _trains_no_stage(backbone: Mapping) -> bool:
    """Whether the config of a backbone freezes all of its stages."""
    frozen = backbone.get('frozen_stages')
    if not isinstance(frozen, int) or frozen < 0:
        return False
    arguments = {k: v for k, v in backbone.items() if k not in ('init_cfg', 'pretrained')}
    try:
        with on_meta():
            stages = getattr(MODELS.build(arguments), 'num_stages', None)
    except Exception:  # what is replaced need not be buildable
        return False
    return isinstance(stages, int) and frozen >= stages


def _with_last_maps(
    facts: BackboneFacts, count: int, task: str, *recipe, **backbone_args
) -> BackboneFacts:
    """The same backbone, returning only the last ``count`` of its maps."""
    if 'out_indices' not in accepted_arguments(type(facts.built)):
        raise ConfigError(
            f'backbone {facts.name!r} returns {len(facts.channels)} maps, but this model reads '
            f'{count}; give {type(facts.built).__name__} an argument out_indices.'
        )
    indices = tuple(range(len(facts.channels)))[-count:]
    return inspect_backbone(facts.name, task, *recipe, **backbone_args, out_indices=indices)


def num_classes(base: dict, count: int, model: dict | None = None) -> dict:
    """``model`` with ``num_classes=count`` added for every head of the config ``base``.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        count: Number of classes.
        model: What :func:`detector` or :func:`segmentor` returned.
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


def without_masks(base: dict, model: dict | None = None) -> dict:
    """``model`` with the changes added that make a detector of boxes alone out of the config ``base``.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        model: What :func:`detector` or :func:`num_classes` returned.
    """
    model = dict(model or {})
    if base.get('type') == 'MaskRCNN':
        model['type'] = 'FasterRCNN'
    heads = {**model.get('roi_head', {}), 'mask_roi_extractor': None, 'mask_head': None}
    model['roi_head'] = heads
    padding = model['data_preprocessor'] = {**model.get('data_preprocessor', {}), 'pad_mask': False}
    augments = {**base.get('data_preprocessor', {}), **padding}.get('batch_augments')
    if augments:
        padding['batch_augments'] = [
            {**augment, 'pad_mask': False} if 'pad_mask' in augment else dict(augment)
            for augment in augments
        ]
    return model


def _preprocessor(facts: BackboneFacts, task: str) -> dict:
    fields: dict = {}
    if facts.mean is not None:
        fields |= {'mean': list(facts.mean), 'std': list(facts.std), 'bgr_to_rgb': True}
    if task == 'detection':
        fields['pad_size_divisor'] = lcm(max(facts.strides), facts.divisor)
    elif facts.divisor > 1:
        fields['test_cfg'] = {'size_divisor': facts.divisor}
    return fields


def _number_of_maps(model: Mapping) -> int | None:
    """How many maps a model reads; None where its config does not say so."""
    neck = model.get('neck') or {}
    head = model.get('decode_head') or {}
    for channels in (neck.get('in_channels'), head.get('in_channels') if not neck else None):
        if isinstance(channels, Sequence):
            return len(channels)
    # heads that read single maps count those that the old backbone returned
    indices = (model.get('backbone') or {}).get('out_indices')
    return len(indices) if isinstance(indices, Sequence) and not neck else None


def _configure_detector(model: ConfigDict, facts: BackboneFacts) -> None:
    if not model.get('neck'):
        raise ConfigError(
            f'backbone {facts.name!r}: this detector ({model.get("type")}) has no neck whose '
            'in_channels could be set.'
        )
    anchors = ((model.get('rpn_head') or {}).get('anchor_generator') or {}).get('strides')
    wanted = tuple(anchors[: len(facts.strides)]) if anchors else facts.strides
    if tuple(facts.strides) != wanted or (anchors and len(facts.strides) < 4 <= len(anchors) - 1):
        raise ConfigError(
            f'backbone {facts.name!r} gives maps of strides {facts.strides}; the anchors of this '
            f'detector are for {tuple(anchors)}. Return one map each at strides 4, 8, 16 and 32.'
        )
    model.neck.in_channels = list(facts.channels)


def _configure_segmentor(model: ConfigDict, facts: BackboneFacts) -> None:
    count = len(facts.channels)
    for key in ('decode_head', 'auxiliary_head', 'neck'):
        heads = model.get(key)
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if not head:
                continue
            index = head.get('in_index', list(range(count)) if key != 'auxiliary_head' else 2)
            indices = [index] if isinstance(index, int) else list(index)
            if any(not -count <= i < count for i in indices):
                raise ConfigError(
                    f'backbone {facts.name!r} gives {count} maps; {key} of this config reads maps '
                    f'{indices}.'
                )
            channels = [facts.channels[i] for i in indices]
            head.in_channels = channels[0] if isinstance(index, int) else channels
            if 'c1_in_channels' in head:  # DeepLabV3+ reads the first map a second time
                head.c1_in_channels = facts.channels[0]
            if head.get('num_convs') == 0:
                head.channels = head.in_channels  # there is no convolution before it
    crop = model.data_preprocessor.get('size')
    if crop and any(side % facts.divisor for side in crop):
        raise ConfigError(
            f'backbone {facts.name!r} needs sides that are multiples of {facts.divisor}; the crops '
            f'of this config are {tuple(crop)}.'
        )
