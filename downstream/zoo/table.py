"""The table of rows; ``zoo.json`` holds what no config says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError
from backbones.weights.sources import weights_table
from downstream.paths import CONFIGS

_FILE = Path(__file__).with_name('zoo.json')


@dataclass(frozen=True)
class Repetition:
    """Figures of a row by others, who trained it anew.

    Attributes:
        by: Whose they are.
        figures: As :attr:`Row.published`.
        source: Where they stand.
    """

    by: str
    figures: dict[str, float | list[float]]
    source: str


@dataclass(frozen=True)
class Row:
    """A recipe and its place in a table.

    Attributes:
        config: Its file, below ``configs/``.
        paper: The paper or, ``'detrex'``, the repository; None beyond these.
        table: ``'table 3'``, or where else its figures stand.
        published: ``box`` and ``mask`` (AP, AP50, AP75, or AP alone) or ``mIoU``, ``mIoU multi-scale``;
            percent.
        printed: Millions of ``params`` and billions of multiply-adds, ``gmacs``, as printed.
        params: Parameters.
        gmacs: Billions of multiply-adds under :mod:`.complexity`'s rule.
        source: Of the published figures.
        note: Why something is not as printed.
        sweep: Name of the paper's sweep, for rows of which only that was published.
    """

    config: str
    paper: str | None
    table: str | None
    published: dict[str, float | list[float]]
    printed: dict[str, float]
    params: int
    gmacs: float
    source: str
    note: str = ''
    sweep: str | None = None

    @property
    def name(self) -> str:
        """The config's name, by which the row is known."""
        return Path(self.config).stem

    @property
    def path(self) -> Path:
        """The config's file."""
        return CONFIGS / self.config

    @property
    def task(self) -> str:
        """``'detection'`` or ``'segmentation'``."""
        return 'detection' if self.config.startswith('det/') else 'segmentation'

    @property
    def method(self) -> str:
        """``'cascade-mask-rcnn'``, ``'mask-rcnn'``, ``'cascade-rcnn'``, ``'faster-rcnn'``,
        ``'dino-4scale'``, ``'rtmdet-l'``, ``'mask2former'``, ``'upernet'`` or ``'linear'``."""
        return self.name.split('_')[0]

    @property
    def backbone(self) -> str:
        """``<family>-<size>``."""
        return self.name.split('_')[1]

    @property
    def family(self) -> str:
        """Of the backbone."""
        return self.backbone.partition('-')[0]

    @property
    def size(self) -> str:
        """Of the backbone."""
        return self.backbone.partition('-')[2]

    @property
    def weights(self) -> str | None:
        """The name of the pretrained weights; None where they were not released."""
        name = f'{self.backbone}_{self.name.split("_")[2]}'
        return name if name in weights_table() else None

    @property
    def schedule(self) -> str:
        """``'1x'``, ``'3x'``, ``'3x-lsj'``, ``'12e'``, ``'50e-lsj'``, ``'160k'``, ..."""
        return self.name.split('_')[3]

    @property
    def data(self) -> str:
        """``'coco'``, ``'ade20k-512x512'`` or ``'ade20k-640x640'``."""
        return self.name.split('_')[4]

    @property
    def repetitions(self) -> list[Repetition]:
        """Figures of others."""
        return [
            Repetition(entry['by'], entry['figures'][self.name], entry['source'])
            for entry in _content()['repetitions']
            if self.name in entry['figures']
        ]

    @property
    def licence(self) -> str:
        """Of the pretrained weights."""
        return weights_table()[self.weights]['licence'] if self.weights else 'weights not released'

    @cached_property
    def cfg(self) -> Config:
        """The config, read."""
        return Config.fromfile(self.path)


@cache
def _content() -> dict:
    return json.loads(_FILE.read_text())


@cache
def rows() -> tuple[Row, ...]:
    """Every row, in the order of the papers' tables."""
    return tuple(Row(**row) for row in _content()['rows'])


def sweep_of(row: Row) -> dict[str, list]:
    """The values that the paper swept, by the key of the config.

    Raises:
        ConfigError: The row's own values were published.
    """
    if row.sweep is None:
        raise ConfigError(f'{row.name}: there is no sweep; the values of this row were published.')
    return _content()['sweeps'][row.sweep]


def find_row(name: str) -> Row:
    """The row of that name or config file.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    stem = Path(name).name.removesuffix('.py')
    found = {row.name: row for row in rows()}
    if stem in found:
        return found[stem]
    near = get_close_matches(stem, found, 3, 0.5) or [n for n in found if stem in n][:3]
    raise ConfigError(
        f'{name!r} is no row of the table.'
        + (f' Did you mean {" or ".join(near)}?' if near else ' `list` shows them.')
    )


def matching(
    pattern: str = '*',
    task: str | None = None,
    family: str | None = None,
    size: str | None = None,
    licence: str | None = None,
) -> list[Row]:
    """The rows that fulfil every condition; ``pattern`` is of the name, ``licence`` a part of it.

    Raises:
        ConfigError: None does.
    """
    found = [
        row
        for row in rows()
        if fnmatch(row.name, pattern)
        and task in (None, row.task, {'detection': 'det', 'segmentation': 'seg'}[row.task])
        and family in (None, row.family)
        and size in (None, row.size)
        and (licence or '').lower() in row.licence.lower()
    ]
    if not found:
        raise ConfigError(
            'no row fulfils these conditions; families: '
            f'{", ".join(sorted({r.family for r in rows()}))}; sizes: '
            f'{", ".join(sorted({r.size for r in rows()}))}.'
        )
    return found
