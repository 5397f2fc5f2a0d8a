"""C code that is compiled for the machine when it is first needed, where there is a C compiler.

It takes about a second, and what is made is kept for the next time. Nothing may depend on it: every
caller has another way.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

_HEADER = Path(__file__).with_name('vectors.h')
_OPTIONS = ('-O3', '-march=native', '-fPIC', '-shared')
_KINDS = {'p': ctypes.c_void_p, 'n': ctypes.c_long, 't': ctypes.c_int, 'f': ctypes.c_float}


def library(source: Path, functions: dict[str, str]) -> ctypes.CDLL | None:
    """The compiled ``source``.

    Args:
        source: A C file.
        functions: What it has, by name, and of each the kinds of its arguments: ``p`` pointer, ``n``
            number, ``t`` small number (of threads, say), ``f`` float. They return nothing.

    Returns:
        None where there is no compiler, or it fails; the log then says so.
    """
    command = shlex.split(os.environ.get('CC', '')) or [
        next((found for name in ('cc', 'gcc', 'clang') if (found := shutil.which(name))), '')
    ]
    if not command[0] or platform.system() == 'Windows':
        return None
    try:
        made = ctypes.CDLL(str(_made(source, command)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        message = f'{source.name} was not compiled, the CPU is slower: {reason}'
        print_log(message, 'current', level=30)
        return None
    for name, kinds in functions.items():
        getattr(made, name).argtypes = [_KINDS[kind] for kind in kinds]
        getattr(made, name).restype = None
    return made


def call(function: Callable[..., None], *arguments: Tensor | int | float | None) -> None:
    """Call a function of C with pointers to tensors, numbers, null, and at last PyTorch's threads."""
    words = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    function(*words, torch.get_num_threads())


def _made(source: Path, command: list[str]) -> Path:
    """The compiled file, made where it is not there yet."""
    path = _folder() / f'{source.stem}-{_fingerprint(source, command)}.so'
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = Path(aside) / path.name
        words = [*command, *_OPTIONS, f'-I{_HEADER.parent}', str(source), '-o', str(made)]
        run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=120)
        # The threads of OpenMP are PyTorch's own, whose library is there already.
        if run([*words, '-fopenmp']).returncode:
            run(words, check=True)
        made.replace(path)  # whole, whoever else is making it
    return path


def _folder() -> Path:
    """Where compiled code is kept: the user's own, for nobody else to write into."""
    cache_home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(cache_home) / 'convnext-dense'
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _fingerprint(source: Path, command: list[str]) -> str:
    """Of all that the code depends on: a home folder may be shared by machines of different kinds."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line for line in lines if line.startswith('flags')), platform.processor())
    parts = (
        source.read_text(),
        _HEADER.read_text(),
        cpu,
        platform.machine(),
        *command,
        *_OPTIONS,
    )
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
