"""The first minutes with a GPU: what could not be tried without one, most valuable first.

    python -m benchmarks --first-gpu [--out FOLDER]

Each step is a process with a time limit and a log file; a step that fails does not stop the others. At
the end there is a table of verdicts, also as ``verdicts.json`` in the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
_DETECTION = 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py'
_SEGMENTATION = 'configs/seg/upernet_convnext-atto_shapes.py'
_SHORT = {
    _DETECTION: ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1'),
    _SEGMENTATION: ('train_cfg.max_iters=40', 'train_cfg.val_interval=40'),
}
_MACHINE = """
import torch, triton
print(torch.__version__, torch.version.cuda, triton.__version__, torch.cuda.nccl.version())
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
torch.ones(1, device='cuda').sum().item()
"""
_FUSED = """
import torch
from backbones import ConvNeXt, ConvNeXtV2, set_fused
from backbones.convnext import fused_gpu

set_fused('gpu')
for device in sorted({'cuda:0', f'cuda:{torch.cuda.device_count() - 1}'}):
    for cls in (ConvNeXt, ConvNeXtV2):
        for dtype in (torch.float16, torch.bfloat16):
            for with_cp in (False, True):
                fused_gpu.failure.cache_clear()
                model = cls('atto', with_cp=with_cp, drop_path_rate=0.2).to(device).train()
                with torch.autocast('cuda', dtype):
                    maps = model(torch.randn(2, 3, 224, 320, device=device))
                sum(y.float().mean() for y in maps).backward()
                torch.cuda.synchronize()
                problem = fused_gpu.failure(torch.device(device), dtype)
                assert problem is None, (device, cls, dtype, with_cp, problem)
"""


@dataclass(frozen=True)
class Step:
    """A command, run in the repository's root."""

    name: str
    command: tuple[str, ...]
    seconds: int
    """After which it has failed."""


@dataclass(frozen=True)
class Verdict:
    """How a step ended."""

    name: str
    passed: bool
    seconds: float
    detail: str
    """The exit code or the time limit, and the last line of the log that tells why."""


def steps(gpus: int, out: Path) -> list[Step]:
    """What to run on a machine with ``gpus`` GPUs, in this order; runs write into ``out``."""
    python = sys.executable

    def train(name: str, config: str, *words: str, options: Sequence[str] = ()) -> Step:
        values = ('--cfg-options', *_SHORT[config], 'randomness.seed=7', *options)
        folder = ('--work-dir', str(out / name))
        return Step(name, (python, 'tools/train.py', config, *folder, *words, *values), 180)

    def train_on_all(name: str, config: str, *words: str, options: Sequence[str] = ()) -> Step:
        single = train(name, config, *words, options=options)
        command = ('tools/dist_train.sh', config, str(gpus), *single.command[3:])
        return Step(name, command, 240)

    tests = ('tests/backbones/convnext/test_fused_gpu.py', 'tests/downstream/operators')
    found = [
        Step('machine', (python, '-c', _MACHINE), 60),
        Step('kernels', (python, '-m', 'pytest', '-q', *tests), 300),
        Step('fused', (python, '-c', _FUSED), 120),
        Step('data', (python, 'tools/make_shapes.py'), 120),
        train('detection-fp16', _DETECTION, '--amp', 'fp16'),
        train('detection-bf16', _DETECTION, '--amp', 'bf16'),
        train(
            'detection-with-cp',
            _DETECTION,
            '--amp',
            'fp16',
            options=('model.backbone.with_cp=True',),
        ),
        train('segmentation-fp16', _SEGMENTATION, '--amp', 'fp16'),
        train('batch-norm', _SEGMENTATION, '--backbone', 'timm:regnety_004'),
        train('deterministic', _SEGMENTATION, options=('randomness.deterministic=True',)),
    ]
    if gpus > 1:
        found += [
            train_on_all('all-gpus', _DETECTION, '--amp', 'fp16'),
            train_on_all('sharded', _SEGMENTATION, '--amp', 'fp16', options=('sharded=True',)),
        ]
    speed = (python, '-m', 'benchmarks', '--only', 'gpu', '--quick')
    return [*found, Step('speed', speed, 600)]


def run(step: Step, out: Path) -> Verdict:
    """Run ``step`` with its output in ``out``/NAME.log."""
    log = out / f'{step.name}.log'
    begin = time.monotonic()
    # The step may import the packages, and must not interpret Triton's kernels.
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'}
    environment.pop('TRITON_INTERPRET', None)
    with log.open('w') as stream:
        try:
            code = subprocess.run(
                step.command,
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=step.seconds,
                check=False,
            ).returncode
            detail = f'exit code {code}'
        except subprocess.TimeoutExpired:
            code, detail = None, f'not done after {step.seconds} s'
        except OSError as error:
            code, detail = None, str(error)
    last = _last_telling_line(log)
    detail = f'{detail}; {last}' if last else detail
    return Verdict(step.name, code == 0, round(time.monotonic() - begin, 1), detail)


def _last_telling_line(log: Path) -> str:
    lines = log.read_text(errors='replace').splitlines()
    words = ('rror', 'passed', 'failed', 'module by module')
    telling = [line.strip() for line in lines if any(word in line for word in words)]
    return telling[-1][:150] if telling else ''


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    lines = ['| step | verdict | seconds | |', '|---|---|---|---|']
    for v in verdicts:
        detail = v.detail.replace('|', '/')
        lines.append(
            f'| {v.name} | {"passed" if v.passed else "FAILED"} | {v.seconds} | {detail} |'
        )
    return '\n'.join(lines)


def run_all(found: Sequence[Step], out: Path) -> int:
    """Run the steps, print and write their verdicts; the number of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts = []
    for step in found:
        print(f'{step.name} ...', flush=True)
        verdicts.append(run(step, out))
        content = json.dumps([asdict(v) for v in verdicts], indent=1)
        (out / 'verdicts.json').write_text(content + '\n')
    print(table(verdicts))
    return sum(not v.passed for v in verdicts)


def main(out: Path) -> int:
    """All steps, and the exit code: 1 if one failed, 0 also where there is no GPU."""
    if not torch.cuda.is_available():
        print('There is no GPU that PyTorch can use; nothing was run.')
        return 0
    return int(run_all(steps(torch.cuda.device_count(), out), out) > 0)
