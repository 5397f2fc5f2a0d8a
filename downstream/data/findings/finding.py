"""One thing that is wrong or odd in a data set, and how several of a kind are said in one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .kinds import KINDS, Kind

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes:
        kind: A key of :data:`KINDS`.
        file: The file to look into.
        record: What it is about within the file, e.g. ``'annotation 12'``; empty for the whole file.
        detail: What is wrong with it; ``record`` and ``detail`` make a sentence.
        image: The image that shows it.
        boxes: Where in the image: x, y, width, height in pixels.
        other: Another image to show beside it.
        part: The part of the data set, ``'train'``.
    """

    kind: str
    file: str
    detail: str
    record: str = ''
    image: Path | None = None
    boxes: tuple[Box, ...] = ()
    other: Path | None = None
    part: str = ''

    @property
    def severity(self) -> str:
        """``'error'``: a run would stop, or train on something wrong. ``'repaired'``: in memory, by a
        rule that needs no guess. ``'warning'``: it may be meant."""
        return KINDS[self.kind].severity

    @property
    def sentence(self) -> str:
        """What is wrong, without the file."""
        return f'{self.record} {self.detail}'.strip()

    @property
    def message(self) -> str:
        """What is wrong and the fix, in one line."""
        fix = KINDS[self.kind].fix
        named = (
            f'{self.file}: {self.record} {self.detail}'
            if self.record
            else f'{self.file} {self.detail}'
        )
        return f'{ended(named)} {fix}'.rstrip()


def by_kind(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings of each kind and part, errors first, in the order of :data:`KINDS`."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.kind, finding.part].append(finding)
    order = {kind: place for place, kind in enumerate(KINDS)}
    ranks = {'error': 0, 'warning': 1, 'repaired': 2}
    return {
        key: groups[key]
        for key in sorted(
            groups, key=lambda key: (ranks[KINDS[key[0]].severity], order[key[0]], key[1])
        )
    }


def lines(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind: how many there are, the first of them, and the fix."""
    return [_line(KINDS[kind], group) for (kind, _), group in by_kind(findings).items()]


def _line(kind: Kind, group: list[Finding]) -> str:
    first = group[0]
    if len(group) == 1:
        return first.message
    files = {finding.file for finding in group}
    where = first.file if len(files) == 1 else f'{len(files)} files'
    example = first.sentence if len(files) == 1 else f'{first.file} {first.sentence}'
    text = f'{where}: {len(group)} {kind.several}, the first: {example}'
    return f'{ended(text)} {kind.fix}'.rstrip()


def ended(text: str) -> str:
    """A sentence with its full stop; a list that is cut short ends with three."""
    return text if text.endswith('...') else f'{text}.'
