"""C code that is compiled for this machine when it is first needed, where there is a C compiler.

Compiling takes about a second, and the result is cached in the user's folder. Every caller has a
fallback in PyTorch. POSIX only, like the whole suite.

The code is compiled with OpenMP where the compiler has it. With GCC its threads are PyTorch's own,
because PyTorch's Linux wheels load the same GNU runtime (libgomp). Clang brings another runtime
(libomp), and so may a PyTorch that was not built by its publishers: then there are two pools of
threads, results are the same, and waiting threads of one pool take time from the other. The log says
so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

_FOLDER = Path(__file__).parent
_OPTIONS = ('-O3', '-march=native', '-fPIC', '-shared')
_KINDS = {'p': ctypes.c_void_p, 'n': ctypes.c_long, 't': ctypes.c_int, 'f': ctypes.c_float}
_OPENMP_RUNTIME = re.compile(r'lib(?:gomp|omp|iomp5)[^/\s]*$', re.MULTILINE)


def load_library(source: Path, functions: dict[str, str]) -> ctypes.CDLL | None:
    """Compile ``source``, unless that was done before, and load it.

    Args:
        source: A C file.
        functions: Its functions by name, and the kinds of their arguments: ``p`` pointer, ``n`` long,
            ``t`` int (the number of threads), ``f`` float. Each returns 0, or 1 if it ran out of
            memory.

    Returns:
        None where there is no compiler or it fails; the log then says so.
    """
    command = shlex.split(os.environ.get('CC', '')) or [
        next((found for name in ('cc', 'gcc', 'clang') if (found := shutil.which(name))), '')
    ]
    if not command[0]:
        return None
    runtimes = _openmp_runtimes()
    try:
        library = ctypes.CDLL(str(_compiled_file(source, command)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        message = f'{source.name} was not compiled, which makes this CPU slower: {reason}'
        print_log(message, 'current', level=30)
        return None
    added = _openmp_runtimes() - runtimes
    if runtimes and added:
        print_log(
            f'{source.name} brings a second OpenMP runtime, {", ".join(sorted(added))} beside '
            f"PyTorch's {', '.join(sorted(runtimes))}, which may be slow: compile with GCC (CC=gcc).",
            'current',
            level=30,
        )
    for name, kinds in functions.items():
        getattr(library, name).argtypes = [_KINDS[kind] for kind in kinds]
        getattr(library, name).restype = ctypes.c_int
    return library


def call(function: Callable[..., int], *arguments: Tensor | int | float | None) -> None:
    """Call a C function with tensors (as pointers), numbers, None (null), and PyTorch's thread count.

    Raises:
        MemoryError: The function could not allocate memory.
    """
    words = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    if function(*words, torch.get_num_threads()):
        raise MemoryError(
            'A CPU kernel of backbones.kernels could not allocate its working memory.'
        )


def _openmp_runtimes() -> set[str]:
    """File names of the OpenMP runtimes that this process has loaded; on Linux alone."""
    maps = Path('/proc/self/maps')
    return set(_OPENMP_RUNTIME.findall(maps.read_text())) if maps.is_file() else set()


def _compiled_file(source: Path, command: list[str]) -> Path:
    """The shared library of ``source``, compiled if it is not in the cache."""
    path = _cache_folder() / f'{source.stem}-{_fingerprint(source, command)}.so'
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = Path(aside) / path.name
        words = [*command, *_OPTIONS, f'-I{_FOLDER}', str(source), '-o', str(made)]
        run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=120)
        if run([*words, '-fopenmp']).returncode:
            run(words, check=True)
        made.replace(path)  # atomic: another process may be compiling the same file
    return path


def _cache_folder() -> Path:
    """A folder of the user's that nobody else may write into."""
    cache_home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(cache_home) / 'convnext-dense'
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _fingerprint(source: Path, command: list[str]) -> str:
    """A hash of all that the compiled code depends on; machines of different kinds may share a home."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line for line in lines if line.startswith('flags')), platform.processor())
    headers = (path.read_text() for path in sorted(_FOLDER.rglob('*.h')))
    parts = (source.read_text(), *headers, cpu, platform.machine(), *command, *_OPTIONS)
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
