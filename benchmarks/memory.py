"""Peak memory of an inference, each implementation in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
from pathlib import Path

import torch

from benchmarks.backbone import Case, build

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def is_possible() -> bool:
    """Whether the system tells a process's peak, and forgets it when told."""
    return _STATUS.is_file() and _CLEAR.exists()


def peak_of_inference(case: Case, name: str) -> int:
    """Bytes that a forward pass takes at its peak on top of weights and input."""
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        return pool.apply(_peak, (case, name))


def _peak(case: Case, name: str) -> int:
    torch.set_num_threads(case.threads)
    models = build(case)
    model = models[name]
    models.clear()
    count, height, width = case.size
    x = torch.randn(count, 3, height, width)
    with torch.inference_mode():
        model(x[..., :64, :64])  # what libraries set up at first
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide what is taken from it
        before = _field('VmRSS')
        _CLEAR.write_text('5')  # forget the peak so far
        model(x)
        return _field('VmHWM') - before


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
