"""Measure everything beside its peers, and write docs/performance.md.

python -m benchmarks [--quick] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

import downstream  # noqa: F401  before mmdet
from benchmarks import backbone, evaluation, memory, models
from benchmarks.backbone import BASE, OURS

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'performance.md'
_BEGIN, _END = '<!-- measured: begin -->', '<!-- measured: end -->'


def machine() -> str:
    """This machine and the versions, in one sentence."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), '')
    versions = ', '.join(
        f'{package} {importlib.metadata.version(package)}'
        for package in ('torch', 'timm', 'torchvision', 'transformers', 'faster-coco-eval')
    )
    day = datetime.date.today().isoformat()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f'{day}, {name or platform.processor()}, {torch.get_num_threads()} threads where nothing else is '
        f'said, {capability}; Python {platform.python_version()}, {versions}.'
    )


def speed_table(cases: tuple[backbone.Case, ...], rounds: int) -> list[str]:
    """Ours beside the peers: medians of the ratios within each round, with their quartiles."""
    lines = [
        '| | this suite | x FAIR form | target | best peer | x best peer | target | difference |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for case in tqdm(cases, desc='backbone'):
        result = backbone.measure(case, rounds)
        timings = result.timings
        best = min(
            (name for name in timings.seconds if name != OURS),
            key=lambda name: timings.spread(name).median,
        )
        count, height, width = case.size
        lines.append(
            f'| {case.name}, {count}x{height}x{width} | {1000 * timings.spread(OURS).median:.0f} ms '
            f'| {timings.speed(OURS, BASE):.2f} | {case.targets[0]:.2f} | {best} '
            f'| {timings.speed(OURS, best):.2f} | {case.targets[1]:.2f} | {result.error:.0e} |'
        )
    return lines


def memory_table() -> list[str]:
    """What is kept for the backward pass, and the peak of an inference."""
    lines = ['| MiB | ' + 'this suite | FAIR form | timm | ratio to FAIR form | target |']
    lines.append('|---|---|---|---|---|---|')
    mib = 2**20
    for name, v2, target in (('V1', False, '1/5'), ('V2', True, '1/7')):
        found = backbone.build(backbone.Case(name, v2, (1, 512, 512), True))
        x = torch.randn(1, 3, 512, 512)
        kept = {key: backbone.kept_for_backward(m, x) for key, m in found.items()}
        lines.append(
            f'| {name}, kept for the backward pass, 1x512x512 | {kept[OURS] / mib:.0f} '
            f'| {kept[BASE] / mib:.0f} | {kept["timm"] / mib:.0f} '
            f'| 1/{kept[BASE] / kept[OURS]:.1f} | {target} |'
        )
    if memory.is_possible():
        for case in backbone.CASES[:2]:
            peaks = {n: memory.peak_of_inference(case, n) for n in (OURS, BASE, 'timm')}
            lines.append(
                f'| {case.name}, peak above weights and image, 1x800x1344 | {peaks[OURS] / mib:.0f} '
                f'| {peaks[BASE] / mib:.0f} | {peaks["timm"] / mib:.0f} '
                f'| {peaks[OURS] / peaks[BASE]:.2f} | 0.60 |'
            )
    return lines


def model_table(rounds: int) -> list[str]:
    """Whole models with our backbone and with timm's."""
    lines = ['| | this suite | with timm | speed |', '|---|---|---|---|']
    for task, size, training in (
        ('Cascade Mask R-CNN', (800, 1344), False),
        ('UperNet', (512, 512), False),
        ('UperNet', (512, 512), True),
    ):
        result = models.measure(task, size, training, rounds)
        timings = result.timings
        lines.append(
            f'| {result.name} | {timings.spread(OURS).median:.2f} s '
            f'| {timings.spread(models.PEER).median:.2f} s | {timings.speed(OURS, models.PEER):.2f} |'
        )
    return lines


def evaluation_table(rounds: int) -> list[str]:
    """Evaluators, on one thread."""
    lines = [
        '| | this suite | reference | speed | target | difference |',
        '|---|---|---|---|---|---|',
    ]
    for result in evaluation.measure(rounds):
        timings = result.timings
        lines.append(
            f'| {result.name} | {timings.spread(evaluation.OURS).median:.2f} s | {result.reference} '
            f'{timings.spread(result.reference).median:.2f} s '
            f'| {timings.speed(evaluation.OURS, result.reference):.1f} | {result.target} '
            f'| {result.error:.0e} |'
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure everything beside its peers.')
    parser.add_argument('--quick', action='store_true', help='few rounds')
    parser.add_argument(
        '--only', nargs='+', choices=['backbone', 'sizes', 'memory', 'models', 'evaluation']
    )
    args = parser.parse_args()
    rounds = 3 if args.quick else 9
    torch.set_num_threads(2)
    parts: dict[str, tuple[str, Callable[[], list[str]]]] = {
        'backbone': ('Backbone, ConvNeXt-Tiny', lambda: speed_table(backbone.CASES, rounds)),
        'sizes': (
            'Other sizes, one thread',
            lambda: speed_table(backbone.MORE, max(3, rounds // 3)),
        ),
        'memory': ('Memory', memory_table),
        'models': ('Whole models', lambda: model_table(max(3, rounds // 3))),
        'evaluation': ('Evaluation, one thread', lambda: evaluation_table(max(3, rounds // 3))),
    }
    text = [machine(), '']
    for key in args.only or parts:
        title, measure = parts[key]
        lines = measure()
        text += [f'### {title}', '', *lines, '']
        print('\n'.join(text[-len(lines) - 3 :]), flush=True)
    if not args.only:
        page = PAGE.read_text()
        before, after = page.split(_BEGIN)[0], page.split(_END)[1]
        PAGE.write_text(f'{before}{_BEGIN}\n' + '\n'.join(text) + f'\n{_END}{after}')


if __name__ == '__main__':
    main()
