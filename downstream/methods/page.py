"""``docs/methods.md``, made from kept results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from backbones.errors import ConfigError
from downstream.atomic import atomic

from .trial import CANNOT, FAILS, NEEDS_MMCV, NOT_ONE, WORKS, Outcome

_PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'methods.md'
_ORDER = (WORKS, NEEDS_MMCV, FAILS, CANNOT, NOT_ONE)
_MEANING = {
    WORKS: 'a training step and a prediction, with finite gradients in the backbone',
    NEEDS_MMCV: 'an operator is missing that only a compiled mmcv has',
    FAILS: 'it stops, for the reason in the last column',
    CANNOT: 'it takes no other backbone, which the command line says in one line',
    NOT_ONE: 'it is no method for single images, or has no backbone',
}
_INTRO = """# Methods of mmdet and mmseg

`--backbone` puts a backbone into any recipe of mmdet and mmseg:

    python tools/train.py mmdet::atss/atss_r50_fpn_1x_coco.py --backbone convnext-tiny_in1k
    python tools/train.py mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py --backbone timm:regnety_040

The table says what came of each method folder: its recipe for a ResNet-50 with the shortest name, or the
next one that takes another backbone, with random images on a CPU, without a compiled mmcv.
`python tools/methods.py try "mmdet::d*" --backbones my_module:MyBackbone` does the same with any other.
A row says that a method runs, not how good it is: learning rate and schedule are those of its recipe.

On your own data all heads get its classes; the batch of mmseg's recipes is read from their names:

    python tools/train.py mmdet::yolox/yolox_s_8xb8-300e_coco.py --data data/parts --backbone swin-tiny

Where a recipe joins data sets, as those for VOC do, yours takes the place of all of them, if they share
a pipeline. An RPN alone learns where objects are and is tested by their recall. What would learn more
than such data have (maps of stuff, masks, images without labels, proposals, a teacher, texts) is refused
in one line. SSD and QueryInst get heads that predict, whatever their backbone: mmdet's `SSDHead` reads an
attribute that it does not set, and its `DynamicMaskHead` cannot paste the mask of a box outside of its
image on a CPU.
"""


def write(kept: Mapping[str, Mapping[str, Outcome]]) -> None:
    """Write ``docs/methods.md``.

    Raises:
        ConfigError: There is no folder docs, as in an installed wheel.
    """
    if not _PAGE.parent.is_dir():
        raise ConfigError(f'{_PAGE.parent} does not exist; pages are written in a clone.')
    with atomic(_PAGE) as file:
        file.write(page(kept))


def page(kept: Mapping[str, Mapping[str, Outcome]]) -> str:
    """The page, whole. Backbones are columns only where their outcomes differ."""
    parts = [_INTRO]
    for library in ('mmdet', 'mmseg'):
        rows = {key: row for key, row in kept.items() if key.startswith(f'{library}::')}
        if not rows:
            continue
        worst = {key: max(row.values(), key=_rank) for key, row in rows.items()}
        counts = Counter(outcome.status for outcome in worst.values())
        parts.append(f'## {library}\n')
        parts.append(f'{len(rows)} folders, with {_backbones(rows)}:\n')
        parts += [f'- **{s}** {counts[s]}: {_MEANING[s]}' for s in _ORDER if counts[s]]
        parts.append('\n| method | recipe | result | why |\n|---|---|---|---|')
        parts += [_line(key, rows[key]) for key in sorted(rows)]
        parts.append('')
    return '\n'.join(parts)


def _rank(outcome: Outcome) -> int:
    return _ORDER.index(outcome.status)


def _backbones(rows: Mapping[str, Mapping[str, Outcome]]) -> str:
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return ' and '.join(f'`{name}`' for name in names)


def _line(key: str, row: Mapping[str, Outcome]) -> str:
    method = key.partition('::')[2]
    first = next(iter(row.values()))
    if len({outcome.status for outcome in row.values()}) == 1:
        status = first.status
    else:
        status = '; '.join(f'{outcome.status} ({name})' for name, outcome in row.items())
    notes = dict.fromkeys(outcome.note for outcome in row.values() if outcome.note)
    recipe = first.recipe.rpartition('/')[2]
    cells = (method, f'`{recipe}`' if recipe else '', status, '; '.join(notes))
    return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'
