"""The fields of a config that change with the classes, and those that leave masks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.data.class_counts import OTHER_TYPES, class_counts, recipe_classes

# Heads that have a number of classes by default, where a config may leave it out.
_CLASSES = ('num_classes',)
_THINGS = ('num_things_classes', 'num_stuff_classes')
_BY_DEFAULT = {
    'decode_head': _CLASSES,
    'auxiliary_head': _CLASSES,
    'bbox_head': _CLASSES,
    'roi_head.bbox_head': _CLASSES,
    'roi_head.mask_head': _CLASSES,
    'panoptic_head': _THINGS,
    'panoptic_fusion_head': _THINGS,
}


def num_classes(base: dict, count: int, model: dict | None = None) -> dict:
    """``model`` with the number of classes added for every head of the config ``base``.

    A number within a head that is not the recipe's number of classes counts something else and stays:
    the maps of stuff of HTC. Weights of classes that are all equal get the new length, others are of the
    recipe's own classes and are left out. There is no stuff beside things.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        count: Number of classes.
        model: What :func:`.detector` or :func:`.segmentor` returned.
    """
    model = dict(model or {})
    former = recipe_classes(base)
    heads = {one.place.partition('.')[0] for one in class_counts(base)}
    heads |= {place.partition('.')[0] for place in _BY_DEFAULT}
    for key in base:
        changes = _with_count(base[key], key, former, count) if key in heads else None
        if changes:
            model[key] = _merged(model.get(key, {}), changes)
    return model


def _with_count(node: Any, place: str, former: int | None, count: int) -> Any:
    """What changes in a part of a config: a dict of changes, a whole list, or None."""
    if isinstance(node, (list, tuple)):
        changes = [_with_count(one, place, former, count) for one in node]
        if not any(changes):
            return None
        return [_merged(one, change) if change else one for one, change in zip(node, changes)]
    if not isinstance(node, Mapping) or node.get('type') in OTHER_TYPES:
        return None
    found: dict = {}
    for key, value in node.items():
        if key in ('num_classes', 'num_things_classes') and value == former:
            found[key] = count
        elif key == 'num_stuff_classes' and node.get('num_things_classes') == former:
            found[key] = 0
        elif key == 'class_weight' and isinstance(value, Sequence):
            found[key] = class_weights(value, former, count)
        elif key not in ('train_cfg', 'test_cfg', 'init_cfg'):
            inner = _with_count(value, f'{place}.{key}', former, count)
            if inner:
                found[key] = inner
    if place in _BY_DEFAULT and not any(class_counts({place: node})):
        found |= dict.fromkeys(_BY_DEFAULT[place], 0) | {_BY_DEFAULT[place][0]: count}
    return found or None


def class_weights(weights: Sequence[float], former: int | None, count: int) -> list[float] | None:
    """``weights`` of a loss for ``count`` classes, and for the background where it is weighed.

    Args:
        weights: Those of the recipe.
        former: Number of the recipe's classes; None where it does not say: the last weight is the
            background's if it differs.
        count: Number of classes.

    Returns:
        None where they differ from class to class: they are of the recipe's classes alone.
    """
    weighed = len(set(weights)) > 1 if former is None else len(weights) != former
    background = list(weights[-1:]) if weighed else []
    own = set(weights[: len(weights) - len(background)])
    return [*own] * count + background if len(own) == 1 else None


def _merged(old: Any, changes: Any) -> Any:
    """A copy of ``old`` with ``changes``, which lists replace and dicts go into."""
    if not isinstance(old, Mapping) or not isinstance(changes, Mapping):
        return changes
    merged = dict(old)
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key), value)
    return merged


def without_masks(base: dict, model: dict | None = None) -> dict:
    """``model`` with the changes added that make a detector of boxes alone out of the config ``base``.

    Args:
        base: The whole ``model`` that the fields will change, ``_base_.model`` in a config.
        model: What :func:`.apply.detector` or :func:`num_classes` returned.
    """
    model = dict(model or {})
    if not (base.get('roi_head') or {}).get('mask_head'):
        return model
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
