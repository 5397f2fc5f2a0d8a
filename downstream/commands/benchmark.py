"""The command of tools/benchmark.py."""

from __future__ import annotations

import time
from pathlib import Path

from downstream.atomic import require_folder
from downstream.benchmarking.names import config_stem
from downstream.benchmarking.run import Benchmark, BenchmarkOptions, benchmark
from downstream.benchmarking.table import as_json, markdown, print_table
from downstream.running.checkpoint.files import raise_on_full_disk, write_text
from downstream.running.test import write_json

_ADVICE = 'make room and measure again.'


def run_benchmark(options: BenchmarkOptions, out: str | None = None) -> Benchmark:
    """Time models, print a table, and write ``benchmark.json`` and ``benchmark.md``.

    Args:
        options: What is timed.
        out: Folder of the files; None: ``work_dirs/<config name>/<time>``.

    Raises:
        UserError: Something of it cannot be used, or the disk is full.
    """
    stem = config_stem(options.model.config)
    folder = Path(out or f'work_dirs/{stem}/{time.strftime("%Y%m%d_%H%M%S")}')
    require_folder(folder)
    found = benchmark(options)
    print_table(found)
    with raise_on_full_disk(str(folder), _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / 'benchmark.json', as_json(found))
        write_text(folder / 'benchmark.md', markdown(found))
    print(f'Figures: {folder / "benchmark.json"}')
    return found
