"""Pretrained weights into a model: all of them, with a report, or an error and nothing changed.

A load that matches nothing is this field's most expensive bug: training goes on for days from random
values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from backbones.convnext.weight_names import translate
from backbones.errors import WeightsError

from .download import local_file
from .read import read
from .sources import find, weights_table
from .translation import Translation, by_own_names

__all__ = ['Report', 'describe', 'load_pretrained', 'load_state', 'weights_table']

# Files of classifiers know no norm per output, which starts at weight 1 and bias 0 (official
# detection code), and no pyramid; dense prediction has no use for the classifier's norm and head.
_OUTPUT_NORM = re.compile(r'norm[0-3]\.(weight|bias)')
_ADDED = re.compile(r'(norm[0-3]|pyramid)\..+')
_CLASSIFIER = re.compile(r'(norm|head)\.(weight|bias)')
_SHOWN = 4


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def is_non_commercial(licence: str) -> bool:
    """Whether ``licence`` forbids commercial use, by its name."""
    return re.search(r'\bNC\b|non-?commercial', licence, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Report:
    """What a load did. Tensors by official name.

    Attributes:
        source: As the user named it.
        layout: The library whose names the file has.
        licence: Of the weights.
        matched: Loaded.
        reshaped: Those of them that the file stores in another shape.
        fresh: Output norms and pyramids, which classifiers' files do not have.
        missing: In the model, not in the file.
        unused: In the file, not in the model.
        misshapen: In both, of different size.
    """

    source: str
    layout: str
    licence: str
    matched: tuple[str, ...]
    reshaped: tuple[str, ...]
    fresh: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing that was expected is amiss."""
        return not (self.missing or self.unused or self.misshapen)

    def __str__(self) -> str:
        lines = [
            f'Weights {self.source} ({self.layout} layout)',
            f'  licence: {self.licence}'
            + (' - NON-COMMERCIAL use only' if is_non_commercial(self.licence) else ''),
            f'  {len(self.matched)} tensors loaded'
            + (f', {len(self.reshaped)} of them reshaped' if self.reshaped else '')
            + (f'; {len(self.fresh)} are new here: {_some(self.fresh)}' if self.fresh else ''),
        ]
        for what in ('missing', 'unused', 'misshapen'):
            names = getattr(self, what)
            if names:
                lines.append(f'  {len(names)} {what}: {_some(names)}')
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
        model: Its method ``translate`` says what the file's tensors are called in it; without one they
            are called the same, or it is a ConvNeXt with the official names.
        checkpoint: A name of the table, a path, a URL, ``timm:<model.tag>`` or ``hf:<repo>``.
        prefix: Take the keys that start so, and no others. Usually found by itself.
        strict: Whether a tensor too few or too many is an error.
        trust: Unpickle a file that holds more than data; that can run any program in it.
        map_location: Accepted because mmengine's ``Pretrained`` has it; files are read on the CPU.

    Returns:
        The report, which is also logged.

    Raises:
        WeightsError: The checkpoint cannot be had or read, or does not fit ``model``; the model is
            as it was.
    """
    source = find(checkpoint)
    state = read(local_file(source), trust)
    if prefix:
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not state:
            raise WeightsError(f'{checkpoint} has no tensor whose name starts with {prefix!r}.')
    report = load_state(model, state, checkpoint, source.licence, strict)
    print_log(str(report), 'current')
    return report


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str = 'state dict',
    licence: str = 'not known',
    strict: bool = True,
) -> Report:
    """Load a state dict of any known layout into ``model``; see :func:`load_pretrained`."""
    found = _translation(model, state)
    report, fitting = _compare(model.state_dict(), found, source, licence)
    if not report.matched or (strict and not report.complete):
        raise WeightsError(_refusal(model, found, report))
    model.load_state_dict(fitting, strict=False)
    return report


def _translation(model: nn.Module, state: Mapping[str, Tensor]) -> Translation:
    if hasattr(model, 'translate'):
        return model.translate(state)
    own = model.state_dict()
    return translate(state) if _has_official_names(own) else by_own_names(state, own)


def _has_official_names(state: Mapping[str, Tensor]) -> bool:
    return 'downsample_layers.0.0.weight' in state


def _compare(
    target: Mapping[str, Tensor], found: Translation, source: str, licence: str
) -> tuple[Report, dict[str, Tensor]]:
    fitting, reshaped, fresh, missing, misshapen = {}, [], [], [], []
    tensors = dict(found.tensors)
    for name, expected in target.items():
        value = tensors.pop(name, None)
        if value is None and name.endswith('.num_batches_tracked'):
            continue  # a counter that old files do not have, and that nothing here reads
        if value is None:
            (fresh if _ADDED.fullmatch(name) else missing).append(name)
        elif value.shape == expected.shape:
            fitting[name] = value
        elif _same_but_for_ones(value, expected):
            fitting[name] = value.reshape(expected.shape)
            reshaped.append(name)
        else:
            misshapen.append(f'{name} {tuple(value.shape)} for {tuple(expected.shape)}')
    unused = [name for name in tensors if not _CLASSIFIER.fullmatch(name)]
    # Norms of outputs that this model does not have are no loss.
    unused = [name for name in unused if not _OUTPUT_NORM.fullmatch(name)]
    # What stands beside the backbone in a whole model was not asked for.
    unused += [key for key in found.foreign if key.startswith(found.prefix)]
    report = Report(
        source, found.layout, licence, tuple(fitting), tuple(reshaped), tuple(fresh),
        tuple(missing), tuple(unused), tuple(misshapen),
    )  # fmt: skip
    return report, fitting


def _same_but_for_ones(value: Tensor, expected: Tensor) -> bool:
    """GRN is stored as (C), (1, C) or (1, 1, 1, C), layer scale as (C, 1, 1), 1x1 convolutions too."""
    return [n for n in value.shape if n > 1] == [n for n in expected.shape if n > 1]


def describe(state: Mapping[str, Tensor]) -> str:
    """What the tensors are: ``'ConvNeXt tiny'``, ``'ConvNeXtV2 with depths ... and dims ...'``."""
    return _describe(translate(state))


def _describe(found: Translation) -> str:
    from backbones.convnext.archs import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, Arch

    dims, depths = [], []
    for stage in range(4):
        bias = found.tensors.get(f'stages.{stage}.0.dwconv.bias')
        blocks = [
            k for k in found.tensors if re.fullmatch(rf'stages\.{stage}\.\d+\.dwconv\.bias', k)
        ]
        if bias is None:
            return 'no ConvNeXt'
        dims.append(bias.numel())
        depths.append(len(blocks))
    v2 = any('.grn.' in name for name in found.tensors)
    family = 'ConvNeXtV2' if v2 else 'ConvNeXt'
    arch = Arch(tuple(depths), tuple(dims))
    for size, known in (CONVNEXTV2_ARCHS if v2 else CONVNEXT_ARCHS).items():
        if known == arch:
            return f'{family} {size}'
    return f'{family} with depths {arch.depths} and dims {arch.dims}'


def _refusal(model: nn.Module, found: Translation, report: Report) -> str:
    own = model.state_dict()
    if not _has_official_names(own):
        return (
            f'{report.source} does not fit this {type(model).__name__}:\n{report}\n'
            'strict=False loads what there is.'
        )
    what = _describe(found)
    wanted = describe({k: torch.empty(v.shape, device='meta') for k, v in own.items()})
    if what == 'no ConvNeXt':
        known = (
            f'{len(found.tensors)} tensors have known names' if found.tensors else 'no known name'
        )
        names = ', '.join([*found.foreign, *found.tensors][:_SHOWN])
        return (
            f'{report.source} is no ConvNeXt checkpoint (closest layout: {found.layout}, {known}). '
            f'It holds {names}, ...'
        )
    if what != wanted:
        return f'{report.source}: these are the weights of {what}; the config asks for {wanted}.'
    return f'{report.source} does not fit:\n{report}\nstrict=False loads what there is.'
