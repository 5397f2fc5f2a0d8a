"""Pages made from tables: ``docs/model_zoo.md``, the table in the README and ``docs/roadmap.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import ConfigError

from .roadmap import page as roadmap_page
from .roadmap.table import record
from .table import Row, rows

_ROOT = Path(__file__).resolve().parents[2]
PAGE, README = _ROOT / 'docs' / 'model_zoo.md', _ROOT / 'README.md'
BEGIN, END = '<!-- begin: made by tools/zoo.py pages -->', '<!-- end -->'
_METHODS = {
    'cascade-mask-rcnn': 'Cascade Mask R-CNN',
    'mask-rcnn': 'Mask R-CNN',
    'cascade-rcnn': 'Cascade R-CNN (boxes)',
    'faster-rcnn': 'Faster R-CNN (boxes)',
    'dino-4scale': 'DINO, 4 scales (boxes)',
    'rtmdet-l': 'RTMDet-L (boxes)',
    'mask2former': 'Mask2Former',
    'upernet': 'UperNet',
    'linear': 'linear head',
}
_INTRO = f"""# Model zoo

Every row is a recipe, `configs/det/<row>.py` or `configs/seg/<row>.py`. **The figures are the papers';
nothing here was trained by this project yet.** `tools/zoo.py check` verifies of each row:

- weights: the backbone loads every tensor of the released file, in name and shape. They come from another
  implementation of the network: timm (ConvNeXt, V2, DINOv3), torchvision (ResNet, ResNeXt) or mmdetection
  (Swin). Tests compare the official layouts with a record of the official code.
- parameters and GMACs (multiply-adds under the papers' rule): those recorded in `zoo.json`. A paper
  prints both for 39 rows, GMACs for 8 more and parameters for 6; there they round to the printed figures,
  except where a note says why not. For the other rows a test derives them from printed rows and the
  formulas of layers.
- schedule: epochs or iterations, steps and batch size are the published ones.

DINO's rows are [detrex's](dino.md), which publishes no parameters, Mask2Former's [the official
ones](mask2former.md).

The tests also compare the learning rate and weight decay of every parameter with the official rules.

    python tools/zoo.py list --family convnextv2 --task det
    python tools/zoo.py check
    python tools/zoo.py plan ROW --gpus 4 --memory 24
    python tools/zoo.py compare work_dirs/.../metrics.json ROW

AP is box / mask AP on COCO val2017, of DINO and RTMDet box AP; mIoU is single-scale / multi-scale on
ADE20K's validation set. GMACs are for 1280 x 800 (COCO) and for the crop's side times four of it
(ADE20K), as in the papers. "Repeated by": what others reached who trained the row anew;
`tools/zoo.py show ROW` has the sources.

{BEGIN}
"""


def page() -> str:
    """``docs/model_zoo.md``, whole."""
    parts = [_INTRO]
    for task, title in (('detection', 'COCO'), ('segmentation', 'ADE20K')):
        parts.append(f'## {title}\n')
        figure = 'AP box / mask' if task == 'detection' else 'mIoU'
        papers = dict.fromkeys(row.paper for row in rows() if row.task == task)
        for paper in sorted(papers, key=lambda paper: paper is None):
            chosen = [row for row in rows() if (row.task, row.paper) == (task, paper)]
            title = f'{paper}, {chosen[0].table}' if paper else 'Beyond the papers'
            parts.append(f'### {title}\n')
            repeated = any(row.repetitions for row in chosen)
            head = ['row', 'method', figure, 'M params', 'GMACs', 'licence of the weights', 'note']
            if repeated:
                head.insert(3, 'repeated by')
            parts.append(_table(head, (_cells(row, repeated) for row in chosen)))
    parts.append(f'{END}\n')
    return '\n'.join(parts)


def _cells(row: Row, repeated: bool) -> list[str]:
    others = ', '.join(f'{in_short(found.figures)} {found.by}' for found in row.repetitions)
    return [
        f'`{row.name}`',
        _METHODS[row.method],
        in_short(row.published),
        *([others] if repeated else []),
        f'{row.params / 1e6:.1f}',
        f'{row.gmacs:.0f}',
        row.licence,
        row.note or ('values out of a sweep' if row.sweep and row.sweep.endswith('v2') else ''),
    ]


def in_short(figures: Mapping[str, Any]) -> str:
    """Figures of a row in short: ``50.4 / 43.7``, ``51.4`` for boxes alone.

    Args:
        figures: As in ``Row.published``.
    """
    if not figures:
        return '-'
    if set(figures) == {'box'}:
        names: tuple[str, ...] = ('box',)
    else:
        names = ('box', 'mask') if 'mask' in figures else ('mIoU', 'mIoU multi-scale')
    found = (figures.get(name, '-') for name in names)
    return ' / '.join(str(value[0] if isinstance(value, list) else value) for value in found)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows_ = [head, ['---'] * len(head), *lines]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in rows_) + '\n'


def readme_table() -> str:
    """The README's table: per family, sizes and the best published figures."""
    head = (
        'backbone',
        'sizes',
        'recipes',
        'published COCO AP box / mask',
        'published AP of DINO',
        'published ADE20K mIoU of UperNet',
        'of Mask2Former',
    )
    lines = []
    for family in dict.fromkeys(row.family for row in rows()):
        own = [row for row in rows() if row.family == family]
        lines.append(
            [
                family,
                ', '.join(dict.fromkeys(row.size for row in own)),
                str(len(own)),
                _best([row for row in own if {'box', 'mask'} <= set(row.published)], 'box'),
                _best([row for row in own if row.method == 'dino-4scale'], 'box'),
                *(
                    _best([row for row in own if (row.task, row.method) == kind], 'mIoU')
                    for kind in (('segmentation', 'upernet'), ('segmentation', 'mask2former'))
                ),
            ]
        )
    return _table(head, lines)


def _best(own: Sequence[Row], key: str) -> str:
    published = [row for row in own if row.published]
    if not published:
        return '-'

    def value(row: Row) -> float:
        figure = row.published.get(key) or row.published['mIoU multi-scale']
        return figure[0] if isinstance(figure, list) else figure

    best = max(published, key=value)
    return f'up to {in_short(best.published)} ({best.size})'


def readme() -> str:
    """The README with its table anew."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + '\n\n' + readme_table() + '\n' + END + rest.split(END, 1)[1]


def write_roadmap(folders: Sequence[str], regime: str) -> None:
    """Record the figures of all steps, see :func:`.roadmap.table.record`, and write the pages."""
    record(folders, regime)
    write()


def write() -> None:
    """Write the pages and the picture of the roadmap.

    Raises:
        ConfigError: This is an installed wheel, which has no such pages.
    """
    if not PAGE.is_file():
        raise ConfigError(
            f'{PAGE} does not exist: the pages are written in a clone of the repository.'
        )
    PAGE.write_text(page())
    README.write_text(readme())
    roadmap_page.PAGE.write_text(roadmap_page.page())
    roadmap_page.PICTURE.write_text(roadmap_page.picture())
