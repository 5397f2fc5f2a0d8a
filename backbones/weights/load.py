"""Pretrained weights into a model: all of them, with a report, or an error and nothing changed.

A load that matches nothing is this field's most expensive bug: training goes on for days from random
values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mmengine.logging import print_log
from torch import Tensor, nn

from backbones.errors import WeightsError

from .download import local_file
from .read import read
from .sources import find, weights_table
from .stem import adapted_stem, describe_adaptation, is_rgb_stem
from .translation import Translation, by_own_names

__all__ = ['Report', 'load_pretrained', 'load_state', 'weights_table']

_SHOWN = 4


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def is_non_commercial(licence: str) -> bool:
    """Whether ``licence`` forbids commercial use, by its name."""
    return re.search(r'\bNC\b|non-?commercial', licence, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Report:
    """The result of a load. Tensors are listed under the model's names.

    Attributes:
        source: The checkpoint, as the user named it.
        layout: The library whose parameter names the file uses.
        licence: Licence of the weights.
        loaded: Tensors that were loaded.
        reshaped: Those loaded tensors that the file stores in another shape.
        adapted: Those of an RGB stem that were adapted to other channels, each with how.
        initialized: Tensors of added modules (output norms, pyramids) that no pretrained file has; they
            start from their initial values.
        missing: Tensors of the model that the file lacks.
        unexpected: Tensors of the file that the model lacks.
        mismatched: Tensors of different size in the model and in the file.
    """

    source: str
    layout: str
    licence: str
    loaded: tuple[str, ...]
    reshaped: tuple[str, ...]
    adapted: tuple[str, ...]
    initialized: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the file and the model have the same tensors, added modules aside."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [
            f'Weights {self.source} ({self.layout} layout)',
            f'  licence: {self.licence}'
            + (' - NON-COMMERCIAL use only' if is_non_commercial(self.licence) else ''),
            f'  {len(self.loaded)} tensors loaded'
            + (f', {len(self.reshaped)} of them reshaped' if self.reshaped else '')
            + (
                f'; {len(self.initialized)} not in the file by design, newly initialized: '
                f'{_some(self.initialized)}'
                if self.initialized
                else ''
            ),
        ]
        lines += [f'  stem adapted: {how}' for how in self.adapted]
        for kind in ('missing', 'unexpected', 'mismatched'):
            names = getattr(self, kind)
            if names:
                lines.append(f'  {len(names)} {kind}: {_some(names)}')
        return '\n'.join(lines)


def load_pretrained(
    model: nn.Module,
    checkpoint: str,
    prefix: str | None = None,
    strict: bool = True,
    trust: bool = False,
    map_location: str | None = None,
) -> Report:
    """Load ``checkpoint`` into a backbone, completely or not at all.

    Args:
        model: Its method ``translate`` returns the file's tensors under the model's names. A model
            without that method is expected to use the file's names.
        checkpoint: A name of the table, a path, a URL, ``timm:<model.tag>`` or ``hf:<repo>``.
        prefix: Load only the keys that start with this prefix. By default it is detected.
        strict: Whether a missing, unexpected or mismatched tensor is an error.
        trust: Unpickle a file that holds more than data; that can run any program in it.
        map_location: Accepted because mmengine's ``Pretrained`` has it; files are read on the CPU.

    Returns:
        The report, which is also logged.

    Raises:
        WeightsError: The checkpoint cannot be found or read, or does not match ``model``; the model is
            unchanged.
    """
    state, licence = read_pretrained(checkpoint, prefix, trust)
    report = load_state(model, state, checkpoint, licence, strict)
    print_log(str(report), 'current')
    return report


def read_pretrained(
    checkpoint: str, prefix: str | None = None, trust: bool = False
) -> tuple[dict[str, Tensor], str]:
    """The tensors of ``checkpoint`` and its licence; arguments and errors of :func:`load_pretrained`."""
    source = find(checkpoint)
    state = read(local_file(source), trust)
    if prefix:
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not state:
            raise WeightsError(f'{checkpoint} has no tensor whose name starts with {prefix!r}.')
    return state, source.licence


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str = 'state dict',
    licence: str = 'not known',
    strict: bool = True,
) -> Report:
    """Load a state dict of any known layout into ``model``; see :func:`load_pretrained`."""
    translation = _translate(model, state)
    report, matching = _compare(model, translation, source, licence)
    if not report.loaded or (strict and not report.complete):
        raise WeightsError(_refusal(model, translation, report))
    model.load_state_dict(matching, strict=False)
    return report


def _translate(model: nn.Module, state: Mapping[str, Tensor]) -> Translation:
    translate = getattr(model, 'translate', None)
    if translate is not None:
        return translate(state)
    return by_own_names(state, model.state_dict())


def _added_modules(model: nn.Module) -> Collection[str]:
    """Modules that classification checkpoints lack. A class that does not declare ``added_modules``
    follows OpenMMLab's convention: output ``i`` has a norm ``norm<i>``."""
    declared = getattr(model, 'added_modules', None)
    if declared is not None:
        return declared
    return {f'norm{i}' for i in getattr(model, 'out_indices', ())}


def _compare(
    model: nn.Module, translation: Translation, source: str, licence: str
) -> tuple[Report, dict[str, Tensor]]:
    matching: dict[str, Tensor] = {}
    reshaped: list[str] = []
    adapted: list[str] = []
    initialized: list[str] = []
    missing: list[str] = []
    mismatched: list[str] = []
    tensors = dict(translation.tensors)
    added = _added_modules(model)
    for name, expected in model.state_dict().items():
        value = tensors.pop(name, None)
        if value is None and name.endswith('.num_batches_tracked'):
            continue  # a counter that old files do not have, and that nothing here reads
        if value is None:
            (initialized if name.partition('.')[0] in added else missing).append(name)
        elif value.shape == expected.shape:
            matching[name] = value
        elif _same_but_for_ones(value, expected):
            matching[name] = value.reshape(expected.shape)
            reshaped.append(name)
        elif is_rgb_stem(value, expected, model):
            matching[name] = adapted_stem(value, expected)
            adapted.append(f'{name}, {describe_adaptation(value, expected)}')
        else:
            mismatched.append(f'{name} {tuple(value.shape)} for {tuple(expected.shape)}')
    # A whole detector's file also has tensors outside of its backbone: they are no part of this load.
    foreign = [key for key in translation.foreign if key.startswith(translation.prefix)]
    report = Report(
        source, translation.layout, licence, tuple(matching), tuple(reshaped), tuple(adapted),
        tuple(initialized), tuple(missing), (*tensors, *foreign), tuple(mismatched),
    )  # fmt: skip
    return report, matching


def _same_but_for_ones(value: Tensor, expected: Tensor) -> bool:
    """GRN is stored as (C), (1, C) or (1, 1, 1, C), layer scale as (C, 1, 1), 1x1 convolutions too."""
    return [n for n in value.shape if n > 1] == [n for n in expected.shape if n > 1]


def _refusal(model: nn.Module, translation: Translation, report: Report) -> str:
    """Why a load is refused, in terms of architectures where the model can name them."""
    describe = getattr(model, 'describe', lambda tensors: None)
    own = describe(model.state_dict())
    if own is None:
        return (
            f'{report.source} does not match this {type(model).__name__}:\n{report}\n'
            'strict=False loads the tensors that match.'
        )
    found = describe(translation.tensors)
    if found is None:
        known = len(translation.tensors)
        return (
            f'{report.source} is not a checkpoint of {own} (closest layout: {translation.layout}, '
            + (f'{known} tensors have known names' if known else 'no known name')
            + f'). It holds {_some([*translation.foreign, *translation.tensors])}.'
        )
    if found != own:
        return f'{report.source}: these are the weights of {found}; the config asks for {own}.'
    return (
        f'{report.source} does not match {own}:\n{report}\n'
        'strict=False loads the tensors that match.'
    )
