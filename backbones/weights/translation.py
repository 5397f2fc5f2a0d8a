"""The tensors of a file under the names of a model's parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

# What files put in front of the backbone's names, outermost first.
_PREFIXES = (
    'module.', 'model.', 'student.', 'teacher.', 'backbone.', 'encoder.', 'convnext.',
    'convnextv2.', 'trunk.',
)  # fmt: skip


# A classifier's last layer in other networks.
_HEAD = re.compile(r'(head|fc|classifier)\.')


@dataclass(frozen=True)
class Translation:
    """A state dict under a model's names.

    Attributes:
        layout: Name of the library whose names the file has.
        prefix: Prefix of the backbone's names in the file.
        tensors: Tensors by the model's names, in the shapes of the file.
        dropped: Names in the file of tensors that the model does not need.
        foreign: Names in the file that the layout does not explain.
    """

    layout: str
    prefix: str
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    foreign: tuple[str, ...]


def by_own_names(state: Mapping[str, Tensor], own: Collection[str]) -> Translation:
    """``state`` for a model whose parameters are called ``own``; a classifier's head is dropped."""
    matches = {
        prefix: sum(f'{prefix}{name}' in state for name in own) for prefix in prefixes_of(state)
    }
    prefix = max(matches, key=lambda prefix: matches[prefix])
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tensors = {name: value for name, value in inside.items() if name in own}
    dropped = [k for k in state if not k.startswith(prefix)]
    dropped += [k for k in inside if k not in own and _HEAD.match(k)]
    foreign = [prefix + k for k in inside if k not in own and not _HEAD.match(k)]
    return Translation('own', prefix, tensors, tuple(dropped), tuple(foreign))


def prefixes_of(state: Mapping[str, Tensor]) -> list[str]:
    """Every chain of known prefixes that some key starts with, the empty one first."""
    found = ['']
    for prefix in found:
        for part in _PREFIXES:
            longer = prefix + part
            if len(found) < 32 and any(key.startswith(longer) for key in state):
                found.append(longer)
    return found
