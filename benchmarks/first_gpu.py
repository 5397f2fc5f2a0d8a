"""The first minutes with a GPU: what could not be tried without one, most valuable first.

    python -m benchmarks --first-gpu [--out FOLDER]

Each step is a process with a time limit and a log file; a step that fails does not stop the others. At
the end there is a table of verdicts, also as ``verdicts.json`` in the folder, what to do about each step
that failed, and what was left out.
"""

from __future__ import annotations

import json
import os
import shutil
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
from backbones.convnext.fused import gpu as fused_gpu

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
_COMPILE = """
import torch
from backbones import ConvNeXtV2

torch.manual_seed(0)
model = ConvNeXtV2('atto').to('cuda').train()
compiled = torch.compile(model)
x = torch.randn(2, 3, 224, 320, device='cuda')
for expected, found in zip(model(x), compiled(x), strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
sum(y.float().mean() for y in compiled(x)).backward()
torch.cuda.synchronize()
"""
# What one more image keeps for the backward pass, measured and as `tools/zoo.py plan` counts it.
_MEMORY = """
import torch
from backbones import ConvNeXt
from downstream.contract.saved_memory import saved_activation_bytes

model = ConvNeXt('tiny').to('cuda').train()

def kept(count):
    images = torch.randn(count, 3, 512, 512, device='cuda')
    model.zero_grad(set_to_none=True)
    outputs = model(images)
    allocated = torch.cuda.memory_allocated()
    sum(y.mean() for y in outputs).backward()
    return allocated

kept(1)
measured = (kept(4) - kept(2)) / 2
with torch.device('meta'):
    same = ConvNeXt('tiny').train()
    image = torch.empty(1, 3, 512, 512)
counted = saved_activation_bytes(same, lambda: same(image))
ratio = measured / counted
assert 2 / 3 < ratio < 3 / 2, f'{measured / 2**20:.0f} MiB measured, {counted / 2**20:.0f} counted'
print(f'passed: {measured / 2**20:.0f} MiB measured, {counted / 2**20:.0f} counted')
"""


@dataclass(frozen=True)
class Step:
    """A command, run in the repository's root."""

    name: str
    command: tuple[str, ...]
    seconds: int
    """After which it has failed."""
    advice: str
    """What a user can do if it fails, beside reporting it."""


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
    found = [*_of_the_machine(), *_on_one_gpu(out)]
    if gpus > 1:
        found += _on_several_gpus(gpus, out)
    speed = (sys.executable, '-m', 'benchmarks', '--only', 'gpu', '--quick')
    return [*found, Step('speed', speed, 600, 'Nothing depends on it: leave fused blocks off.')]


def left_out(gpus: int) -> list[str]:
    """What :func:`steps` cannot try here, and why."""
    reasons = []
    if not shutil.which(_SANITIZER):
        reasons.append(
            f'sanitizer: {_SANITIZER} is not on the PATH (it comes with the CUDA toolkit)'
        )
    if gpus < 2:
        reasons.append('several GPUs: this machine has one')
    return reasons


_SANITIZER = 'compute-sanitizer'
_FUSED_TESTS = 'tests/backbones/convnext/test_fused_gpu.py'


def _of_the_machine() -> list[Step]:
    python = sys.executable
    tests = (python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider')
    unfused = 'Leave the fused blocks off (CONVNEXT_FUSED=cpu); nothing else uses them.'
    found = [
        Step('machine', (python, '-c', _MACHINE), 60, 'Compare driver and card with docs/gpu.md.'),
        Step('kernels', (*tests, _FUSED_TESTS, 'tests/downstream/operators'), 300, unfused),
        Step('fused', (python, '-c', _FUSED), 120, unfused),
        Step('compiled', (python, '-c', _COMPILE), 300, 'Train without torch.compile.'),
        Step('memory', (python, '-c', _MEMORY), 60, 'Do not trust the GiB of tools/zoo.py plan.'),
        Step('data', (python, 'tools/make_shapes.py'), 120, 'Look at the log.'),
    ]
    if shutil.which(_SANITIZER):
        chosen = (*tests, _FUSED_TESTS, '-k', 'in_float32 and V2')
        checked = (_SANITIZER, '--error-exitcode', '9', *chosen)
        found.insert(2, Step('sanitizer', checked, 180, unfused))
    return found


def _training(
    name: str, config: str, out: Path, *words: str, options: Sequence[str] = ()
) -> list[str]:
    """The arguments of a short training into ``out``/NAME."""
    values = ('--cfg-options', *_SHORT[config], 'randomness.seed=7', *options)
    return [config, '--work-dir', str(out / name), *words, *values]


def _on_one_gpu(out: Path) -> list[Step]:
    def train(
        name: str, config: str, *words: str, advice: str, options: Sequence[str] = ()
    ) -> Step:
        arguments = _training(name, config, out, *words, options=options)
        return Step(name, (sys.executable, 'tools/train.py', *arguments), 180, advice)

    fp16 = ('--amp', 'fp16')
    found = []
    for task, config in (('detection', _DETECTION), ('segmentation', _SEGMENTATION)):
        found += [
            train(f'{task}-fp16', config, *fp16, advice='Train with --amp bf16, or in float32.'),
            train(f'{task}-bf16', config, '--amp', 'bf16', advice='Train with --amp fp16.'),
            train(f'{task}-fp32', config, advice='Report it: nothing on this GPU can be trusted.'),
        ]
    return [
        *found,
        train(
            'detection-with-cp',
            _DETECTION,
            *fp16,
            options=('model.backbone.with_cp=True',),
            advice='Leave model.backbone.with_cp out.',
        ),
        train(
            'batch-norm',
            _SEGMENTATION,
            '--backbone',
            'timm:regnety_004',
            advice='Take backbones without BatchNorm (ConvNeXt, Swin).',
        ),
        train(
            'deterministic',
            _SEGMENTATION,
            options=('randomness.deterministic=True',),
            advice='Leave randomness.deterministic out.',
        ),
        train(
            'fused-optimizer',
            _DETECTION,
            *fp16,
            options=('optim_wrapper.optimizer.fused=True',),
            advice='Leave optim_wrapper.optimizer.fused out.',
        ),
    ]


def _on_several_gpus(gpus: int, out: Path) -> list[Step]:
    def train(
        name: str, config: str, *words: str, advice: str, options: Sequence[str] = ()
    ) -> Step:
        path, *arguments = _training(name, config, out, *words, options=options)
        command = ('tools/dist_train.sh', path, str(gpus), *arguments)
        return Step(name, command, 240, advice)

    slide = ('mode=slide', 'crop_size=(128,128)', 'stride=(85,85)')
    sharded = 'sharded=True'
    stop = (sys.executable, '-m', 'benchmarks.stop_and_resume', _DETECTION, str(gpus))
    # Long enough to be stopped on eight GPUs, which need four steps an epoch.
    long = ('train_cfg.max_epochs=40', 'train_cfg.val_interval=40', 'randomness.seed=7')
    return [
        train(
            'all-gpus',
            _DETECTION,
            '--amp',
            'fp16',
            advice='Train on one GPU; NCCL_DEBUG=INFO tells more.',
        ),
        Step(
            'stop-and-resume',
            (*stop, str(out / 'stop-and-resume'), *long),
            600,
            'Do not rely on signals: save often (default_hooks.checkpoint.interval).',
        ),
        train(
            'sharded',
            _SEGMENTATION,
            '--amp',
            'fp16',
            options=(sharded,),
            advice='Train without sharded=True.',
        ),
        train(
            'sharded-slide',
            _SEGMENTATION,
            options=(sharded, *(f'model.test_cfg.{word}' for word in slide)),
            advice='Train sharded without validation (train_cfg.val_begin=1000000000).',
        ),
    ]


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


def advice(found: Sequence[Step], verdicts: Sequence[Verdict], out: Path) -> list[str]:
    """A line for each step that failed: what to do, and where its log is."""
    failed = {v.name for v in verdicts if not v.passed}
    return [f'{s.name}: {s.advice} Log: {out / s.name}.log' for s in found if s.name in failed]


def run_all(found: Sequence[Step], out: Path, omitted: Sequence[str] = ()) -> int:
    """Run the steps, print and write their verdicts; the number of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    told = {'what to do': list[str](), 'left out': list(omitted)}
    for step in found:
        print(f'{step.name} ...', flush=True)
        verdicts.append(run(step, out))
        told['what to do'] = advice(found, verdicts, out)
        report = {'verdicts': [asdict(v) for v in verdicts], **told}
        (out / 'verdicts.json').write_text(json.dumps(report, indent=1) + '\n')
    print(table(verdicts))
    for title, lines in told.items():
        for line in lines:
            print(f'{title}: {line}')
    print(f'Attach {out / "verdicts.json"} and the logs beside it to a report.')
    return sum(not v.passed for v in verdicts)


def main(out: Path) -> int:
    """All steps, and the exit code: 1 if one failed, 0 also where there is no GPU."""
    if not torch.cuda.is_available():
        print('There is no GPU that PyTorch can use; nothing was run.')
        return 0
    gpus = torch.cuda.device_count()
    return int(run_all(steps(gpus, out), out, left_out(gpus)) > 0)
