"""Depth of a parameter, for learning-rate decay: ConvNeXt's official rule and a generic one.

A depth is the number of a group: the stem has 0, everything behind the backbone
the last one. The learning rate is multiplied by
``decay_rate ** (number_of_groups - depth - 1)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Depth = tuple[int, int]

# As many groups between stem and heads as the official rule gives deep ConvNeXts.
MAX_GROUPS = 12
# A parameter of a ConvNeXt's downsampling layer (the stem is number 0) or of a block.
_CONVNEXT = re.compile(
    r'(?:downsample_layers\.(?P<downsample>\d)|stages\.(?P<stage>\d)\.(?P<block>\d+))\..+'
)
# A name up to its first run of numbers: the block that a parameter belongs to.
_BLOCK = re.compile(r'(?:.*?\.)?\d+(?:\.\d+)*(?=\.)')


def convnext_layer_depth(name: str, third_stage_blocks: int) -> Depth:
    """The official layer ids: blocks of the third stage are taken in threes, so that deep models have
    12 and shallow ones 6 ids between the stem and the output norms and heads.

    Args:
        name: An official parameter name.
        third_stage_blocks: The depth of the third stage.
    """
    last = 12 if third_stage_blocks > 9 else 6
    total = last + 2
    found = _CONVNEXT.fullmatch(name)
    if found is None:
        return total - 1, total
    if found['downsample'] == '0':
        return 0, total
    stage = int(found['downsample'] or found['stage'])
    if stage == 2:
        return min(3 + int(found['block'] or 0) // 3, last), total
    return {0: 1, 1: 2, 3: last}[stage], total


def convnext_stage_depth(name: str, third_stage_blocks: int) -> Depth:
    """The official ids by stage: every downsampling layer has 0, stage ``s`` has ``s + 1``, output
    norms and heads the last one of :func:`convnext_layer_depth`."""
    total = convnext_layer_depth(name, third_stage_blocks)[1]
    found = _CONVNEXT.fullmatch(name)
    if found is None:
        return total - 1, total
    return (int(found['stage']) + 1 if found['stage'] else 0), total


def generic_depths(names: Iterable[str]) -> dict[str, Depth]:
    """Depths by order: parameters of a block share a depth, blocks are in the order of definition.

    Args:
        names: Of parameters, in the order of the model.
    """
    blocks: dict[str, int] = {}
    numbers = {}
    for name in names:
        found = _BLOCK.match(name)
        block = found[0] if found else name.rpartition('.')[0] or name
        numbers[name] = blocks.setdefault(block, len(blocks))
    return folded(numbers)


def folded(numbers: Mapping[str, int]) -> dict[str, Depth]:
    """Layer numbers as depths: 0 is the stem, the others share at most :data:`MAX_GROUPS` groups.

    With a group per layer a decay rate would mean something else for every number of layers; folded, a
    deep model's stem learns no slower than a shallow one's, as under the official rule.
    """
    behind_stem = max(numbers.values(), default=0)
    groups = min(behind_stem, MAX_GROUPS)
    total = groups + 2
    return {
        name: (1 + (number - 1) * groups // behind_stem if number else 0, total)
        for name, number in numbers.items()
    }
