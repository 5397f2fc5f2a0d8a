"""Measure everything beside its peers, and write docs/performance.md.

python -m benchmarks [--quick] [--only NAME ...]
python -m benchmarks --first-gpu [--out FOLDER]
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tqdm import tqdm

import downstream  # noqa: F401  before mmdet
from benchmarks import first_gpu, memory
from benchmarks.process import alone
from benchmarks.speed import (
    attention,
    backbone,
    drawing,
    evaluation,
    gpu,
    masked,
    models,
    operators,
)
from benchmarks.speed.backbone import BASE, OURS
from downstream.benchmarking.memory import reports_peaks
from downstream.contract.saved_memory import saved_activation_bytes

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'performance.md'
_BEGIN, _END = '<!-- measured: begin -->', '<!-- measured: end -->'


def machine() -> str:
    """This machine and the versions, in one sentence."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), '')
    versions = ', '.join(
        f'{package} {importlib.metadata.version(package)}'
        for package in ('torch', 'timm', 'torchvision', 'transformers', 'hotcoco')
    )
    day = datetime.date.today().isoformat()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f'{day}, {name or platform.processor()}, {capability}; Python {platform.python_version()}, '
        f'{versions}.'
    )


def other_work() -> str:
    """What else the machine does, as words for the page; '' where it is idle.

    To be asked before anything is measured: measuring loads the machine as well.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f' Beside other work: a load of {load:.1f} on {cores} cores.' if load > cores / 4 else ''


def put(page: str, sections: Mapping[str, str]) -> str:
    """The page with these tables, by title, in the place of its former ones or after all others."""
    before, rest = page.split(_BEGIN)
    measured, after = rest.split(_END)
    words = re.split(r'^### (.+)\n', measured, flags=re.MULTILINE)[1:]
    all_ = {**dict(zip(words[::2], words[1::2])), **sections}
    text = '\n'.join(f'### {title}\n\n{text.strip()}\n' for title, text in all_.items())
    return f'{before}{_BEGIN}\n{text}\n{_END}{after}'


def speed_table(cases: tuple[backbone.Case, ...], rounds: int) -> list[str]:
    """Ours beside the peers: medians of the ratios within each round, with their quartiles."""
    lines = [
        '| | this suite | x FAIR form | target | best peer | x best peer | target | difference |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for case in tqdm(cases, desc='backbone'):
        result = alone(backbone.measure, case, rounds)
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


def memory_table(rounds: int) -> list[str]:
    """What is kept for the backward pass, and the peak of an inference."""
    lines = ['| MiB | ' + 'this suite | FAIR form | timm | ratio to FAIR form | target |']
    lines.append('|---|---|---|---|---|---|')
    mib = 2**20
    for name, v2, target in (('V1', False, '1/5'), ('V2', True, '1/7')):
        found = backbone.build(backbone.Case(name, v2, (1, 512, 512), True))
        x = torch.randn(1, 3, 512, 512)
        kept = {key: saved_activation_bytes(m, functools.partial(m, x)) for key, m in found.items()}
        lines.append(
            f'| {name}, kept for the backward pass, 1x512x512 | {kept[OURS] / mib:.0f} '
            f'| {kept[BASE] / mib:.0f} | {kept["timm"] / mib:.0f} '
            f'| 1/{kept[BASE] / kept[OURS]:.1f} | {target} |'
        )
    if reports_peaks():
        for case in backbone.CASES[:2]:
            names = (OURS, BASE, 'timm')
            peaks = {name: memory.peak(backbone.inference, case, name) for name in names}
            lines.append(
                f'| {case.name}, peak above weights and image, 1x800x1344 | {peaks[OURS] / mib:.0f} '
                f'| {peaks[BASE] / mib:.0f} | {peaks["timm"] / mib:.0f} '
                f'| {peaks[OURS] / peaks[BASE]:.2f} | 0.60 |'
            )
    return lines


def model_table(rounds: int) -> list[str]:
    """Whole models with our backbone and with timm's."""
    lines = [
        '| | this suite | with timm | speed | MiB at the peak | with timm |',
        '|---|---|---|---|---|---|',
    ]
    for case in tqdm(models.CASES, desc='models'):
        timings = models.measure(case, rounds)
        peaks = ['', '']
        if reports_peaks():
            names = (models.OURS, models.PEER)
            peaks = [f'{memory.peak(models.alone, case, n) / 2**20:.0f}' for n in names]
        lines.append(
            f'| {case} | {timings.spread(models.OURS).median:.2f} s '
            f'| {timings.spread(models.PEER).median:.2f} s '
            f'| {timings.speed(models.OURS, models.PEER):.2f} | {" | ".join(peaks)} |'
        )
    return lines


def operator_table(rounds: int) -> list[str]:
    """Operators of detectors beside torchvision's."""
    lines = ['| | this suite | torchvision | speed | difference |', '|---|---|---|---|---|']
    for result in operators.measure(rounds):
        timings = result.timings
        lines.append(
            f'| {result.name} | {1000 * timings.spread(OURS).median:.0f} ms '
            f'| {1000 * timings.spread(operators.PEER).median:.0f} ms '
            f'| {timings.speed(OURS, operators.PEER):.1f} | {result.error:.0e} |'
        )
    return lines


def attention_table(rounds: int) -> list[str]:
    """Deformable attention of an encoder layer."""
    lines = [
        "| | this suite | mmcv, PyTorch | speed | target | kept for the backward pass | of mmcv's "
        '| target | difference |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for result in attention.measure(rounds):
        timings, kept = result.timings, result.kept
        lines.append(
            f'| {result.name} | {1000 * timings.spread(OURS).median:.0f} ms '
            f'| {1000 * timings.spread(attention.PEER).median:.0f} ms '
            f'| {timings.speed(OURS, attention.PEER):.1f} | 1.5 | {kept[OURS] / 2**20:.0f} MiB '
            f'| {kept[OURS] / kept[attention.PEER]:.2f} | 0.30 | {result.error:.0e} |'
        )
    return lines


def gpu_table(rounds: int) -> list[str]:
    """Backbones on a GPU, where there is one."""
    lines = [
        '| | this suite | timm | speed | timm, compiled | speed | of the matrix peak | difference |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for case in tqdm(gpu.CASES, desc='GPU'):
        result = gpu.measure(case, rounds)
        timings = result.timings
        own, *others = (timings.spread(name).median for name in gpu.NAMES)
        eager, compiled = (timings.speed(OURS, name) for name in gpu.NAMES[1:])
        lines.append(
            f'| {case} | {1000 * own:.1f} ms | {1000 * others[0]:.1f} ms | {eager:.2f} '
            f'| {1000 * others[1]:.1f} ms | {compiled:.2f} | {result.of_peak:.2f} | {result.error:.0e} |'
        )
    return lines


def masked_table(rounds: int) -> list[str]:
    """Steps of masked pre-training."""
    lines = [
        '| | this suite | speed, whole grid masked | target | speed, no mask '
        '| kept for the backward pass | of the masked | target | difference of gradients |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for case in tqdm(masked.CASES, desc='pre-training'):
        result = alone(masked.measure, case, rounds)
        timings, kept = result.timings, result.kept
        lines.append(
            f'| {case} | {1000 * timings.spread(OURS).median:.0f} ms '
            f'| {timings.speed(OURS, masked.DENSE):.2f} | 2.0 '
            f'| {timings.speed(OURS, masked.UNMASKED):.2f} | {kept[OURS] / 2**20:.0f} MiB '
            f'| {kept[OURS] / kept[masked.DENSE]:.2f} | 0.45 | {result.error:.0e} |'
        )
    return lines


def drawing_table(rounds: int) -> list[str]:
    """Pictures, on one thread."""
    lines = ['| | this suite | OpenMMLab | speed | target |', '|---|---|---|---|---|']
    for result in drawing.measure(rounds):
        timings = result.timings
        own, peer = (timings.spread(name).median for name in (OURS, drawing.PEER))
        lines.append(
            f'| {result.name} | {1000 * own:.0f} ms | {1000 * peer:.0f} ms '
            f'| {timings.speed(OURS, drawing.PEER):.1f} | {result.target} |'
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


def _fewer(table: Callable[[int], list[str]]) -> Callable[[int], list[str]]:
    return lambda rounds: table(max(3, rounds // 3))


PARTS: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    'backbone': (
        'Backbone, ConvNeXt-Tiny, two threads',
        functools.partial(speed_table, backbone.CASES),
    ),
    'sizes': (
        'Other sizes, one thread',
        _fewer(functools.partial(speed_table, backbone.MORE)),
    ),
    'memory': ('Memory', memory_table),
    'models': ('Whole models', _fewer(model_table)),
    'operators': ('Operators of detectors', operator_table),
    'attention': ('Deformable attention, 22,223 queries, two threads', _fewer(attention_table)),
    'masked': ('Masked pre-training, FCMAE, two threads', _fewer(masked_table)),
    'evaluation': ('Evaluation, one thread', _fewer(evaluation_table)),
    'drawing': ('Drawing, one thread', drawing_table),
    'gpu': ('Backbone on a GPU', gpu_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure everything beside its peers.')
    parser.add_argument('--quick', action='store_true', help='few rounds; writes nothing')
    parser.add_argument('--only', nargs='+', choices=PARTS, help='these tables')
    parser.add_argument(
        '--first-gpu', action='store_true', help='what could not be tried without a GPU, in minutes'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/first_gpu'), help='its logs and verdicts'
    )
    args = parser.parse_args()
    if args.first_gpu:
        raise SystemExit(first_gpu.main(args.out.resolve()))
    rounds = 3 if args.quick else 9
    torch.set_num_threads(2)
    limit = os.environ.get('ATEN_CPU_CAPABILITY')
    beside = other_work()
    for key in args.only or [key for key in PARTS if key != 'gpu' or torch.cuda.is_available()]:
        title, measure = PARTS[key]
        title = f'{title}, {limit}' if limit else title
        begin = time.monotonic()
        lines = measure(rounds)
        minutes = (time.monotonic() - begin) / 60
        about = f'{machine()} {rounds} rounds, fewer of what takes long, in {minutes:.0f} minutes.'
        about += beside
        text = '\n'.join([about, '', *lines])
        print(f'### {title}\n\n{text}\n', flush=True)
        if not args.quick:
            PAGE.write_text(put(PAGE.read_text(), {title: text}))


if __name__ == '__main__':
    main()
