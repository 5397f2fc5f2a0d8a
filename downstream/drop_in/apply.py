"""Put a backbone into a detector or a segmenter: neck, heads and preprocessor are configured from it.

Three entry points: ``--backbone NAME`` of the command lines, :func:`drop_in` for a config object, and
:func:`detector`, :func:`detr`, :func:`segmentor`, :func:`linear_segmentor` and :func:`mask2former` for
one line in a config file. :mod:`backbones.names` lists the names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import lcm

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from backbones.base import accepted_arguments
from backbones.completed import CompletedBackbone
from backbones.errors import ConfigError
from backbones.uninitialised import on_meta

from .facts import (
    BackboneFacts,
    as_completed,
    completed,
    inspect_backbone,
    inspect_with,
    leaves_untrained,
)
from .formats import takes_channels_last
from .rates import adapt_layer_decay
from .reads import DetectorMaps, SegmenterMaps
from .report import report
from .stock import (
    StockMaps,
    inner_model,
    require_replaceable,
    stock_maps,
    with_published_decoder,
    without_neck_for_plain_vits,
)


def detector(name: str, **backbone_args) -> dict:
    """The ``model`` fields of an FPN detector on the backbone ``name``.

    Args:
        name: See :mod:`backbones.names`.
        backbone_args: Further arguments of the backbone's class.

    Raises:
        ConfigError: There is no such backbone, or it breaks the contract.
        WeightsError: There are no such weights.
    """
    facts = completed(inspect_backbone(name, 'detection', **backbone_args))
    return {
        'backbone': facts.config,
        'neck': {'in_channels': list(facts.channels)},
        'data_preprocessor': _preprocessor(facts, 'detection'),
    }


def detr(name: str, **backbone_args) -> dict:
    """The ``model`` fields of a DETR that reads the maps of strides 8, 16 and 32.

    Images of a batch are padded to the largest, and further only where the backbone needs it.

    Arguments and errors as in :func:`detector`.
    """
    args = {'out_indices': (1, 2, 3), **backbone_args}
    facts = inspect_backbone(name, 'detection', **args)
    fields = _preprocessor(facts, 'detection')
    return {
        'backbone': facts.config,
        'neck': {'in_channels': list(facts.channels)},
        'data_preprocessor': {**fields, 'pad_size_divisor': facts.divisor},
    }


def segmentor(name: str, aux_index: int = 2, **backbone_args) -> dict:
    """The ``model`` fields of a segmenter whose auxiliary head reads feature map ``aux_index``.

    Arguments and errors as in :func:`detector`.
    """
    facts = completed(inspect_backbone(name, 'segmentation', **backbone_args))
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
        last = (len(facts.channels) - 1,)
        facts = _with_maps(facts, last, 'segmentation', **backbone_args)
    width = facts.channels[-1]
    return {
        'backbone': facts.config,
        'decode_head': {
            'in_channels': width,
            'channels': width,  # there is no convolution before the classifier
            'in_index': len(facts.channels) - 1,
        },
        'data_preprocessor': _preprocessor(facts, 'segmentation'),
    }


def mask2former(name: str, task: str = 'segmentation', **backbone_args) -> dict:
    """The ``model`` fields of a Mask2Former on the backbone ``name``.

    Args:
        name: See :mod:`backbones.names`.
        task: ``'segmentation'`` (mmseg's) or ``'detection'`` (mmdet's, for instances).
        backbone_args: Further arguments of the backbone's class.

    Errors as in :func:`detector`.
    """
    facts = completed(inspect_backbone(name, task, **backbone_args))
    head = {'segmentation': 'decode_head', 'detection': 'panoptic_head'}[task]
    return {
        'backbone': facts.config,
        head: {'in_channels': list(facts.channels)},
        'data_preprocessor': _preprocessor(facts, task),
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
    model = deepcopy(cfg.model)
    inner = inner_model(model)
    require_replaceable(name, inner)
    notes: list[tuple[str, str]] = []
    task = 'segmentation' if 'decode_head' in inner else 'detection'
    notes += with_published_decoder(inner)
    removed = without_neck_for_plain_vits(inner)
    if removed:
        notes.append(('neck', f'{removed} left out: it makes strides that this backbone has'))
    old = inner.backbone
    recipe = old.get('drop_path_rate'), _trains_no_stage(old)
    if not takes_channels_last(inner):
        backbone_args = {'contiguous_maps': True, **backbone_args}
    facts = completed(inspect_backbone(name, task, *recipe, **backbone_args))
    stock = stock_maps(old)
    # Weights of the old backbone, which a segmenter hands on to whatever backbone there is.
    inner.pop('pretrained', None)
    if task == 'detection':
        facts = _configure_detector(inner, facts, stock, task, *recipe, **backbone_args)
    else:
        facts = _configure_segmentor(inner, facts, stock, task, *recipe, **backbone_args)
    inner.backbone = ConfigDict(facts.config)
    preprocessor = _set_preprocessor(model, inner, facts, task)
    cfg.model = model
    notes += adapt_layer_decay(cfg)
    return report(cfg, facts, preprocessor, task, notes)


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


def _with_maps(
    facts: BackboneFacts, chosen: Sequence[int], task: str, *recipe, **backbone_args
) -> BackboneFacts:
    """The same backbone, returning only the maps ``chosen`` where it can.

    Raises:
        ConfigError: It cannot, and some of its parameters would get no gradient.
    """
    if len(chosen) == len(facts.channels) or 'out_indices' in facts.config:
        return facts
    if isinstance(facts.built, CompletedBackbone):
        return inspect_with(facts, out_indices=chosen)
    if _can_choose(facts):
        numbers = getattr(facts.built, 'out_indices', range(len(facts.channels)))
        indices = tuple(numbers[i] for i in chosen)
        return inspect_backbone(facts.name, task, *recipe, **backbone_args, out_indices=indices)
    if leaves_untrained(facts, chosen):
        raise ConfigError(
            f'backbone {facts.name!r} returns {len(facts.channels)} maps, but this model reads '
            f'{len(chosen)}; give {type(facts.built).__name__} an argument out_indices.'
        )
    return facts


def _preprocessor(facts: BackboneFacts, task: str) -> dict:
    fields: dict = {}
    if facts.mean is not None and facts.std is not None:
        fields |= {'mean': list(facts.mean), 'std': list(facts.std), 'bgr_to_rgb': True}
    if task == 'detection':
        fields['pad_size_divisor'] = lcm(max(facts.strides), facts.divisor)
    elif facts.divisor > 1:
        fields['test_cfg'] = {'size_divisor': facts.divisor}
    return fields


def _can_choose(facts: BackboneFacts) -> bool:
    """Whether the class of a backbone has the argument ``out_indices``."""
    return 'out_indices' in accepted_arguments(type(facts.built))


def _set_preprocessor(
    model: ConfigDict, inner: ConfigDict, facts: BackboneFacts, task: str
) -> Mapping:
    """Set mean, std and padding in all preprocessors of ``model``; returns the innermost."""
    found: list[ConfigDict] = []
    for holder in (model, inner):
        at = holder.setdefault('data_preprocessor', ConfigDict())
        if isinstance(at.get('data_preprocessor'), Mapping):  # one for each branch of a teacher
            at = at.data_preprocessor
        if not any(at is other for other in found):
            found.append(at)
    for preprocessor in found:
        fields = _preprocessor(facts, task)
        if task == 'detection':
            # What the method needs: 1 for DETRs, 128 for some pyramids.
            fields['pad_size_divisor'] = lcm(preprocessor.get('pad_size_divisor', 1), facts.divisor)
        if fields.get('bgr_to_rgb'):
            preprocessor.pop('rgb_to_bgr', None)
        preprocessor.update(fields)
    return found[-1]


def _configure_detector(
    model: ConfigDict, facts: BackboneFacts, stock: StockMaps, task: str, *recipe, **backbone_args
) -> BackboneFacts:
    maps = DetectorMaps(facts.name, model, stock)
    if 'out_indices' not in facts.config and _can_choose(facts):
        maps.leave_out_unread()
    chosen = maps.chosen(facts.strides)
    facts = _with_maps(facts, chosen, task, *recipe, **backbone_args)
    if len(facts.channels) > len(chosen) and 'out_indices' not in facts.config:
        # A class without out_indices, all of whose parameters the maps that are read need.
        facts = inspect_with(as_completed(facts), out_indices=chosen)
    maps.configure(facts)
    return facts


def _configure_segmentor(
    model: ConfigDict, facts: BackboneFacts, stock: StockMaps, task: str, *recipe, **backbone_args
) -> BackboneFacts:
    maps = SegmenterMaps(facts.name, model, stock)
    total = len(facts.channels)
    chosen = None if 'out_indices' in facts.config else maps.chosen(facts.strides)
    if chosen is not None:
        facts = _with_maps(facts, chosen, task, *recipe, **backbone_args)
        if maps.neck is not None and len(facts.channels) > len(chosen):
            facts = inspect_with(as_completed(facts), out_indices=chosen)
    maps.configure(facts, chosen, total)
    crop = model.get('data_preprocessor', {}).get('size')
    if crop and any(side % facts.divisor for side in crop):
        raise ConfigError(
            f'backbone {facts.name!r} needs sides that are multiples of {facts.divisor}; the crops '
            f'of this config are {tuple(crop)}.'
        )
    if crop:
        maps.require_room(facts, crop)
    return facts
