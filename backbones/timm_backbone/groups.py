"""Layers, stages, blocks and frozen parts of a timm model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from .create import TimmModel


def groups_of(model: TimmModel, coarse: bool) -> dict[str, int]:
    """timm's layer number (coarse: stage number) of every parameter; the stem has 0."""
    from timm.models import group_parameters

    if not hasattr(model, 'group_matcher'):
        return {name: 0 for name, _ in model.named_parameters()}
    try:
        matcher = model.group_matcher(coarse=coarse)
    except AssertionError:  # timm's RDNets have no stages
        matcher = model.group_matcher(coarse=False)
    return group_parameters(model, matcher, reverse=True)


def block_names(module: nn.Module, prefix: str, groups: Mapping[str, int]) -> Iterator[str]:
    """Names of the largest modules with children below ``module`` whose parameters are in one group.

    Args:
        module: A module of timm's model.
        prefix: Its name and a dot.
        groups: Group by parameter name; the stem has 0.
    """
    name = prefix.rstrip('.')
    numbers = {groups[key] for key, _ in module.named_parameters(name)}
    # lists are indexed, not called
    is_unit = len(numbers) == 1 and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if is_unit and 0 not in numbers and any(True for _ in module.children()):
        yield name
    elif not is_unit:
        for child_name, child in module.named_children():
            yield from block_names(child, f'{prefix}{child_name}.', groups)


def frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules below ``module`` (itself included) none of whose parameters train."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield module
    else:
        for child in module.children():
            yield from frozen_modules(child)
