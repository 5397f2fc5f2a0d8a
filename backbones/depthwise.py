"""The weight gradient of a depthwise 7x7 convolution on a CPU, where oneDNN's takes most of the step.

``depthwise.c`` is compiled when it is first needed, in about a second, and kept for the next time.
Where there is no C compiler the gradient is oneDNN's: slower, otherwise the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

_SIZE = 7
_SOURCE = Path(__file__).with_name('depthwise.c')
_OPTIONS = ('-O3', '-march=native', '-fPIC', '-shared')
# Threads get whole cache lines of channels.
_CHANNELS = 16
_NAMES = {torch.float32: 'gradient_float32', torch.float64: 'gradient_float64'}


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient ``(C, 1, 7, 7)`` of the weight of ``conv2d(x, weight, padding=3, groups=C)``.

    Args:
        x: Input ``(N, C, H, W)``, channels last, float32 or float64.
        grad: Gradient of the output, of the same form.
        weight: The convolution's.
    """
    library = compiled()
    if library is None:
        mask = [False, True, False]
        one, half = [1, 1], [_SIZE // 2, _SIZE // 2]
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, half, one, False, [0, 0], len(weight), mask
        )[1]
    count, channels, height, width = x.shape
    out = x.new_zeros(_SIZE, _SIZE, channels)
    function = getattr(library, _NAMES[x.dtype])
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, grad, out))
    sizes = (ctypes.c_long(size) for size in (count, height, width, channels))
    fixed = (*pointers, *sizes)
    threads = min(torch.get_num_threads(), -(-channels // _CHANNELS))
    share = -(-channels // threads // _CHANNELS) * _CHANNELS
    parts = [(i, min(i + share, channels)) for i in range(0, channels, share)]
    if len(parts) == 1:
        function(*fixed, *map(ctypes.c_long, parts[0]))
    else:
        with ThreadPoolExecutor(len(parts)) as pool:  # ctypes lets go of the interpreter's lock
            list(pool.map(lambda part: function(*fixed, *map(ctypes.c_long, part)), parts))
    return out.permute(2, 0, 1).unsqueeze(1)


@cache
def compiled() -> ctypes.CDLL | None:
    """The library of ``depthwise.c``; None where it cannot be made."""
    command = shlex.split(os.environ.get('CC', '')) or [
        next((found for name in ('cc', 'gcc', 'clang') if (found := shutil.which(name))), '')
    ]
    if not command[0] or platform.system() == 'Windows':
        return None
    try:
        path = _folder() / f'depthwise-{_fingerprint(command)}.so'
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=path.parent) as aside:
                made = Path(aside) / path.name
                words = [*command, *_OPTIONS, str(_SOURCE), '-o', str(made)]
                subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
                made.replace(path)  # whole, whoever else is making it
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        print_log(
            f'{_SOURCE.name} was not compiled, training on the CPU is slower: {reason}',
            'current',
            level=30,
        )
        return None


def _folder() -> Path:
    """Where compiled code is kept: the user's own, for nobody else to write into."""
    cache_home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(cache_home) / 'convnext-dense'
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _fingerprint(command: list[str]) -> str:
    """Of all that the code depends on: a home folder may be shared by machines of different kinds."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line for line in lines if line.startswith('flags')), platform.processor())
    parts = (_SOURCE.read_text(), cpu, platform.machine(), *command, *_OPTIONS)
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
