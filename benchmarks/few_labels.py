"""Few labels: what pre-training on unlabelled images does for a detector and a segmenter.

    python -m benchmarks.few_labels --out work_dirs/few_labels --jobs 2

Atto networks are pre-trained by FCMAE on drawn images without their annotations, ConvNeXt V2 and V1.
Detector and segmenter are then trained on few other images with labels, from random weights and from
these, in equal numbers of steps, by tools/compare.py. The same command goes on where it was stopped.
Leaves ``table.md`` and ``table.json`` in the folder, after each comparison as far as they have come.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from downstream.comparing.figures import CONFIDENCE, Spread, spread
from downstream.data.shapes import make_shapes
from downstream.paths import TOOLS
from downstream.running.checkpoint.files import write_text

# Not the seed of the labelled images.
_UNLABELLED, _SEED = 'data/unlabelled', 1
_VALIDATION = 48
_TASKS = {
    # Recipe, images of a step.
    'detection': ('cascade-mask-rcnn_convnext-atto_shapes', 2),
    'segmentation': ('upernet_convnext-atto_shapes', 4),
}
_FIGURES = ('box AP', 'mask AP', 'mIoU')
_V2, _V1 = 'convnextv2-atto', 'convnext-atto'


def start_of(backbone: str) -> str:
    """``NAME=WEIGHTS`` with the encoder that the pre-training of ``backbone`` leaves."""
    return f'{backbone}=pretrained/{backbone}/encoder.safetensors'


def compare_words(task: str, images: int, args: argparse.Namespace, backbones: Sequence) -> list:
    """The words of tools/compare.py that train a task with ``images`` labelled images."""
    recipe, batch = _TASKS[task]
    epochs = max(1, round(args.steps[task] * batch / images))
    changes = [f'train_dataloader.dataset.indices={images}']
    if task == 'detection':  # counts in epochs: one checkpoint and no evaluation before the end
        changes += [
            f'default_hooks.checkpoint.interval={epochs}',
            f'train_cfg.val_interval={epochs}',
        ]
    return [
        *(recipe, '--backbones', *backbones, '--epochs', epochs, '--seeds', args.seeds),
        *('--jobs', args.jobs, '--work-dir', folder_of(task, images), '--cfg-options', *changes),
    ]


def folder_of(task: str, images: int) -> str:
    """Folder of a comparison below that of the experiment."""
    return f'{task}_{images}'


def gathered(root: Path, images: Sequence[int]) -> list[dict]:
    """The figures that are known, a dict for each number of labelled images and start.

    ``images``, ``backbone``, ``pretrained`` and the :class:`.Spread` of each figure over seeds; its
    difference is to random weights of the same network.
    """
    found: dict[tuple, dict[str, Spread]] = {}
    for count in images:
        for task in _TASKS:
            path = root / folder_of(task, count) / 'table.json'
            if not path.is_file():
                continue
            for row in json.loads(path.read_text())['rows']:
                backbone, _, weights = row['backbone'].partition('=')
                figures = found.setdefault((count, backbone, bool(weights)), {})
                for name, figure in row['figures'].items():
                    figures[name] = spread(figure['values'])
    for (count, backbone, pretrained), figures in found.items():
        random = found.get((count, backbone, False), {})
        for name in figures if pretrained else ():
            if name in random:
                figures[name] = spread(figures[name].values, random[name].values)
    order = sorted(found, key=lambda key: (key[0], key[1] == _V1, key[2]))
    keys = ('images', 'backbone', 'pretrained')
    return [{**dict(zip(keys, key)), 'figures': found[key]} for key in order]


def markdown(rows: Sequence[Mapping]) -> str:
    """The table of :func:`gathered`."""
    header = ['labelled images', 'backbone', 'start', *_FIGURES, 'seeds']
    lines = [header, ['---:', '---', '---', *['---:'] * (len(_FIGURES) + 1)]]
    for row in rows:
        figures = [row['figures'].get(name, Spread(())) for name in _FIGURES]
        seeds = sorted({len(figure.values) for figure in figures if figure.values})
        start = 'FCMAE' if row['pretrained'] else 'random'
        cells = [row['images'], row['backbone'], start, *map(_cell, figures)]
        lines.append([*map(str, cells), ' to '.join(map(str, {*seeds[:1], *seeds[-1:]}))])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def _cell(figure: Spread) -> str:
    if figure.mean is None:
        return '-'
    text = f'{figure.mean:.1f}'
    if figure.deviation is not None:
        text += f' ± {figure.deviation:.1f}'
    if figure.difference is not None:
        text += f' ({figure.difference:+.1f}'
        text += f' [{figure.low:+.1f}, {figure.high:+.1f}])' if figure.low is not None else ')'
    return text


def write(root: Path, args: argparse.Namespace) -> str:
    """Write what is known into ``table.md`` and ``table.json``; the first."""
    rows = gathered(root, args.images)
    text = markdown(rows)
    facts = {
        'date': time.strftime('%Y-%m-%d'),
        'unlabelled images': args.unlabelled,
        'steps': args.steps,
        'interval': CONFIDENCE,
    }
    content = {'facts': facts, 'rows': [{**row, 'figures': _plain(row['figures'])} for row in rows]}
    write_text(root / 'table.md', text)
    write_text(root / 'table.json', json.dumps(content, indent=1) + '\n')
    return text


def _plain(figures: Mapping[str, Spread]) -> dict[str, dict]:
    return {name: vars(figure) for name, figure in figures.items()}


def run(root: Path, tool: str, words: Sequence) -> None:
    """Run one of the suite's tools in ``root``; SystemExit with its exit code unless that is 0."""
    command = [sys.executable, str(TOOLS / f'{tool}.py'), *map(str, words)]
    paths = [str(TOOLS.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    print(f'$ {" ".join(command[1:])}', flush=True)
    code = subprocess.run(command, cwd=root, env=environment, check=False).returncode
    if code:
        raise SystemExit(code)


def pretrain(root: Path, args: argparse.Namespace) -> None:
    """Pre-train both networks, unless their encoders are there."""
    make_shapes(root / _UNLABELLED, args.unlabelled, validation=0, seed=_SEED)
    for backbone in (_V2, _V1):
        folder = f'pretrained/{backbone}'
        if not (root / folder / 'encoder.safetensors').is_file():
            resume = ['--resume'] if (root / folder / 'last_checkpoint').is_file() else []
            data = f'{_UNLABELLED}/images/training'
            words = [f'fcmae_{backbone}_shapes', '--data', data, '--work-dir', folder, *resume]
            epochs = ['--epochs', args.epochs] if args.epochs else []
            run(root, 'pretrain', [*words, *epochs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/few_labels'))
    parser.add_argument('--images', type=int, nargs='+', default=[16, 64], help='with labels')
    parser.add_argument('--unlabelled', type=int, default=2048, metavar='N')
    parser.add_argument('--epochs', type=int, help="of the pre-training; none: the recipe's")
    parser.add_argument('--detector-steps', type=int, default=128, metavar='N')
    parser.add_argument('--segmenter-steps', type=int, default=80, metavar='N')
    parser.add_argument('--seeds', type=int, default=3, metavar='N')
    parser.add_argument('--jobs', type=int, default=1, metavar='J', help='runs at a time')
    args = parser.parse_args()
    args.steps = {'detection': args.detector_steps, 'segmentation': args.segmenter_steps}
    root = args.out.resolve()
    pretrain(root, args)
    make_shapes(root / 'data/shapes', max(args.images), _VALIDATION)
    # What V1 gains from its own start is asked last: a run that is stopped has the rest.
    starts = [_V2, start_of(_V2), start_of(_V1)]
    for backbones in (starts, [*starts, _V1]):
        for images in args.images:
            for task in _TASKS:
                run(root, 'compare', compare_words(task, images, args, backbones))
                print(write(root, args), flush=True)


if __name__ == '__main__':
    main()
