"""Where the config of a model says how many classes there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

COUNTS = ('num_classes', 'num_things_classes', 'num_stuff_classes')
# Parts of a model whose numbers of classes are not those of the data: an RPN has one, a backbone those
# that it was pretrained on, a head for maps of stuff its own.
_OTHERS = (
    'backbone',
    'neck',
    'rpn_head',
    'semantic_head',
    'data_preprocessor',
    'train_cfg',
    'test_cfg',
    'init_cfg',
)
OTHER_TYPES = ('STDCHead',)  # of edges
# What tells the number of classes of a recipe, the first that there is.
_PRINCIPAL = (
    'roi_head.bbox_head',
    'bbox_head',
    'mask_head',
    'panoptic_head',
    'decode_head',
    'query_head',
)


@dataclass(frozen=True)
class ClassCount:
    """A number of classes within a model.

    Attributes:
        place: Keys of the part that has it, dotted; places in lists are numbers.
        key: One of :data:`COUNTS`.
        value: The number.
    """

    place: str
    key: str
    value: int


def class_counts(model: Mapping) -> Iterator[ClassCount]:
    """All numbers of classes that the heads of ``model`` and what is in them have."""
    for key, part in model.items():
        if key not in _OTHERS:
            yield from _counts_within(part, key)


def _counts_within(node: object, place: str) -> Iterator[ClassCount]:
    if isinstance(node, Mapping) and node.get('type') not in OTHER_TYPES:
        for key in COUNTS:
            if isinstance(node.get(key), int):
                yield ClassCount(place, key, node[key])
        for key, value in node.items():
            if key not in _OTHERS:
                yield from _counts_within(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _counts_within(value, f'{place}.{number}')


def recipe_classes(model: Mapping) -> int | None:
    """How many classes a model is for, by its principal head; None where it does not say."""
    found = [one for one in class_counts(model) if one.key != 'num_stuff_classes']
    for start in _PRINCIPAL:
        for one in found:
            if f'{one.place}.'.startswith(f'{start}.'):
                return one.value
    return found[0].value if found else None
