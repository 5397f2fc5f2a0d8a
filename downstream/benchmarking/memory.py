"""Peak memory of a step: of a GPU as its allocator counts it, of a CPU as the system does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from downstream.running.options.batch_probe import release_free_memory

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def reports_peaks() -> bool:
    """Whether the system reports the peak memory of this process and can reset it, as Linux does."""
    return _STATUS.is_file() and _CLEAR.exists()


def peak_of_step(step: Callable[[], object], device: torch.device | None = None) -> int | None:
    """Bytes that a step takes at its peak on top of what was there before it.

    Args:
        step: What is run, once.
        device: A CUDA device, whose memory is meant. Any other, or None: that of this process.

    Returns:
        The bytes; None where the system does not report them.
    """
    if device is not None and device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not reports_peaks():
        return None
    release_free_memory()
    before = _field('VmRSS')
    _CLEAR.write_text('5')  # forget the peak so far
    step()
    return _field('VmHWM') - before


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
