"""``docs/roadmap.md`` and its picture, made from the figures of :mod:`.table`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from backbones.roadmap.names import name_of
from backbones.roadmap.steps import STEPS

from . import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOCS = Path(__file__).resolve().parents[3] / 'docs'
PAGE, PICTURE = _DOCS / 'roadmap.md', _DOCS / 'roadmap.svg'
_TINY, _BASE = '#5b4a9e', '#b9b9c4'
_COMMAND = """\
steps="{names}"
python tools/make_shapes.py
python tools/compare.py cascade-mask-rcnn_convnext-atto_shapes --seeds 3 --jobs 2 --epochs 4 \\
    --work-dir work_dirs/roadmap/det --backbones $steps
python tools/compare.py upernet_convnext-atto_shapes --seeds 3 --jobs 2 --epochs 5 \\
    --work-dir work_dirs/roadmap/seg --backbones $steps
python tools/zoo.py roadmap work_dirs/roadmap/det work_dirs/roadmap/seg       # into docs/roadmap.md"""
_INTRO = """# From ResNet to ConvNeXt, step by step

The paper's central experiment: a ResNet becomes a ConvNeXt, one design decision at a time. Every step is
a backbone here, under any name of the table:

    python tools/train.py configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py \\
        --backbone roadmap-inverted-bottleneck
    python tools/check_backbone.py roadmap-kernel-7 --args kernel=11
    python tools/weights.py check my_step.pth --backbone roadmap-gelu      # an own ImageNet classifier

`roadmap-<step>` goes from ResNet-50 to ConvNeXt-T, `roadmap-<step>-base` from ResNet-200 to ConvNeXt-B,
`roadmap-<step>-atto` ends in ConvNeXt's atto and trains on a CPU. As a class:
`Roadmap(step, regime, depths=..., width=..., kernel=...)`. No weights of the steps were released, but for
both ends: `init_cfg=dict(type='Pretrained', checkpoint='resnet-50_in1k')` loads into `roadmap-resnet`,
`'convnext-tiny_in1k'` into `roadmap-separate-downsampling`.

![Bars of top-1 and multiply-adds of every step in both regimes.](roadmap.svg)

<!-- made by tools/zoo.py pages -->

"""
_NOTE = """
Top-1 on ImageNet-1k in percent, T (from ResNet-50 to ConvNeXt-T) the mean and standard deviation of three
seeds; multiply-adds at 224 x 224. Source: tables 10 and 11 of the paper. `tools/zoo.py check roadmap`
counts the multiply-adds of every step: they round to the printed ones in both regimes, but for two slips
of the print. """
_OPEN = """## What the paper leaves open

The text, its tables and the multiply-adds fix most of each step. The rest was decided thus; it changes no
multiply-adds:

- A step keeps every decision before it. Until `fewer-activations` a norm and an activation follow every
  convolution, the stem's too; the last activation of a block follows the sum, as in ResNet.
- `fewer-activations` also removes those behind the stem and the sum.
- `fewer-norms` leaves the one behind the depthwise convolution; those of the stem and of the projection
  shortcuts go too, as `separate-downsampling` adds "one after the stem".
- A convolution has a bias unless BatchNorm follows it.
- Layer scale is among the settings of the paper's training. Here the last step has it, as ConvNeXt, and
  `layer_scale_init_value=` gives it to any other. Initial values are ConvNeXt's in every step.
- In detectors and segmenters each map gets a LayerNorm from `layernorm` on and none before, as in
  ConvNeXt's and ResNet's detectors; `output_norm=True` or `False` says otherwise. At `fewer-norms` maps
  are not normalised at all: what that step does there is not the paper's question alone.
- Learning-rate decay follows ConvNeXt's groups, and drop path the recipe's rate, in every step.

"""
_LIMITS = """What these figures may not be taken to show: the networks are small, the pictures are drawn
shapes, and training starts from random weights and is short, so that what a design learns late does not
count. The steps differ in multiply-adds, as in the paper. A recipe that was tuned for ConvNeXt is used
for all. Intervals are over seeds alone (95 %, Student's t) and wide; two steps whose intervals overlap
are not told apart.

"""


def page() -> str:
    """``docs/roadmap.md``, whole."""
    return ''.join([_INTRO, _steps(), _OPEN, _own_figures(), _throughput(), _isotropic()])


def _steps() -> str:
    head = ('step', 'top-1 T', 'GFLOPs T', 'top-1 B', 'GFLOPs B')
    lines, notes = [], []
    for tiny, base in zip(table.steps('tiny'), table.steps('base')):
        mark = ''
        if tiny.slip:
            notes.append(f'`{tiny.step}`: {tiny.slip}.')
            mark = f' (computed: {tiny.computed:.2f})'
        name = f'kernel {tiny.kernel}, not taken' if tiny.kernel else f'`{tiny.step}`'
        lines.append(
            [
                name,
                f'{tiny.top1:.2f} ± {tiny.spread:.2f}',
                f'{tiny.gflops:.2f}{mark}',
                f'{base.top1:.2f}',
                f'{base.gflops:.2f}',
            ]
        )
    data = table.published()
    for tiny, base in (data['swin'], data['old_recipe']):
        words = ' with the old recipe' if tiny in data['old_recipe'] else ''
        lines.append(
            [
                f'{tiny["network"]}, {base["network"]}{words}',
                f'{tiny["top1"]:.2f}',
                _decimals(tiny.get('gflops')),
                f'{base["top1"]:.2f}',
                _decimals(base.get('gflops')),
            ]
        )
    return '## ImageNet, as published\n\n' + _table(head, lines) + _NOTE + ' '.join(notes) + '\n\n'


def _own_figures() -> str:
    own = table.measured()
    names = ' \\\n'.join(
        '    ' * (i > 0) + ' '.join(name_of(step, 'atto') for step in STEPS[i : i + 3])
        for i in range(0, len(STEPS), 3)
    )
    text = '## Detection and segmentation\n\n'
    if own is None:
        text += 'Not run yet. The experiment, on the embedded data, for a CPU:\n\n'
    else:
        text += _own_table(own) + _LIMITS + 'The experiment:\n\n'
    command = _COMMAND.format(names=names)
    return text + ''.join(f'    {line}\n' for line in command.splitlines()) + '\n'


def _own_table(own: dict) -> str:
    tasks = [task for task in ('detection', 'segmentation') if task in own]
    figures = {'detection': 'box AP', 'segmentation': 'mIoU'}
    tiny = {step.step: step for step in table.steps('tiny') if not step.kernel}
    lines = []
    for step in STEPS:
        cells = [interval(own[task]['values'][step]) for task in tasks]
        shown = [f'{m:.1f}' if half is None else f'{m:.1f} ± {half:.1f}' for m, half in cells]
        lines.append([f'`{name_of(step, own["regime"])}`', *shown, f'{tiny[step].top1:.2f}'])
    seeds = len(own[tasks[0]]['values'][STEPS[0]])
    budgets = ' and '.join(
        f'{own[task]["trained"]} of `{own[task]["config"]}` ({figures[task]})' for task in tasks
    )
    date = max(own[task]['date'] for task in tasks)
    head = ('backbone', *(figures[task] for task in tasks), 'top-1 T, published')
    return (
        _table(head, lines)
        + f'\nMean of {seeds} seeds after {budgets}, from random weights. Measured on {date}.\n\n'
    )


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval by Student's t; None for a single value."""
    if len(values) < 2:
        return mean(values), None
    from scipy.stats import t

    return mean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def _throughput() -> str:
    lines = [
        [
            f'{row["size"]} at {row["resolution"]}',
            _decimals(row['swin'], 1),
            _decimals(row['convnext'], 1),
            f'{row["convnext"] / row["swin"] - 1:+.0%}' if row['swin'] else '-',
        ]
        for row in table.published()['throughput']
    ]
    return (
        '## Throughput, as published\n\n'
        + _table(('size', 'Swin', 'ConvNeXt', 'difference'), lines)
        + '\nImages per second on an A100, TF32, channels last. Source: table 12 of the paper.\n\n'
    )


def _isotropic() -> str:
    lines = [
        [
            f'`convnext-iso-{row["size"]}_in1k-ema`',
            f'{row["top1"]:.1f}',
            str(row['params']),
            str(row['gflops']),
        ]
        for row in table.published()['isotropic']
    ]
    return (
        '## Isotropic ConvNeXts\n\n'
        'Section 3.3 of the paper compares ConvNeXts without stages, all blocks at stride 16, with plain '
        'ViTs. They are backbones through the feature pyramid that plain ViTs get here '
        '([backbones](backbones.md)); the released files load by name, under the MIT licence.\n\n'
        + _table(('backbone', 'top-1', 'M params', 'GFLOPs'), lines)
    )


def _decimals(value: float | None, count: int = 2) -> str:
    return '-' if value is None else f'{value:.{count}f}'


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ['---'] * len(head), *lines]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in rows) + '\n'


def picture() -> str:
    """The paper's figure 2 as SVG: a row for each step, panels of top-1 and multiply-adds, and of our own
    figures where there are any."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    own = table.measured() or {}
    tasks = [task for task in ('detection', 'segmentation') if task in own]
    # text stays text; the same figures give the same file
    with mpl.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'roadmap', 'font.size': 8}):
        figure = Figure(figsize=(7.5 + 2 * len(tasks), 4.6), layout='constrained')
        panels = figure.subplots(1, 2 + len(tasks), sharey=True)
        _bars(panels[0], 'top1', 'ImageNet top-1 (published)', 76)
        _bars(panels[1], 'gflops', 'GFLOPs (published)', 0)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc='outside upper center', ncols=2, frameon=False)
        for panel, task in zip(panels[2:], tasks):
            title = 'box AP' if task == 'detection' else 'mIoU'
            _intervals(panel, own[task]['values'], f'{title} ({own["regime"]}, ours)')
        labels = [
            f'kernel {step.kernel} (not taken)' if step.kernel else step.step
            for step in table.steps('tiny')
        ]
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].invert_yaxis()
        file = io.StringIO()
        figure.savefig(file, format='svg', metadata={'Date': None, 'Creator': None})
    return '\n'.join(line.rstrip() for line in file.getvalue().splitlines()) + '\n'


def _bars(panel: Axes, field: str, title: str, start: float) -> None:
    for regime, color, shift, words in (
        ('tiny', _TINY, -0.2, 'ResNet-50 to ConvNeXt-T'),
        ('base', _BASE, 0.2, 'ResNet-200 to ConvNeXt-B'),
    ):
        rows = table.steps(regime)
        values = [getattr(row, field) for row in rows]
        places = [place + shift for place in range(len(rows))]
        # steps that were not taken are hatched
        hatches = ['///' if row.kernel else '' for row in rows]
        bars = panel.barh(
            places, values, 0.4, color=color, label=words, hatch=hatches, edgecolor='white'
        )
        panel.bar_label(bars, [f'{value:.2f}' for value in values], padding=2, fontsize=6)
    panel.margins(x=0.12)
    panel.set_xlim(left=start)
    panel.set_title(title, fontsize=8)
    panel.spines[['top', 'right']].set_visible(False)


def _intervals(panel: Axes, values: dict[str, list[float]], title: str) -> None:
    taken = [i for i, step in enumerate(table.steps('tiny')) if not step.kernel]
    centers, halves = zip(*(interval(values[step]) for step in STEPS))
    panel.errorbar(
        centers, taken, xerr=[half or 0 for half in halves], fmt='o', ms=3, lw=1, color=_TINY
    )
    panel.set_title(title, fontsize=8)
    panel.spines[['top', 'right']].set_visible(False)
