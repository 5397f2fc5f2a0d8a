"""Functions in processes of their own, forked from a server that has imported everything."""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from downstream.commands import line

ROOT = Path(__file__).resolve().parents[2]
FORKS = multiprocessing.get_context('forkserver')


def start(run: Callable, folder: Path, arguments: list[dict]) -> list[multiprocessing.Process]:
    """Start ``run(**arguments[rank])`` in a process for each rank, with output to ``folder/out<rank>``.

    The processes have the variables of torchrun where there are several.
    """
    # A runner's visualizer needs matplotlib, which is imported late.
    FORKS.set_forkserver_preload([run.__module__, 'matplotlib.pyplot'])
    folder.mkdir(exist_ok=True)
    environment = {}
    if len(arguments) > 1:
        with socket.create_server(('127.0.0.1', 0)) as free:
            port = str(free.getsockname()[1])
        environment = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
        environment['WORLD_SIZE'] = str(len(arguments))
    running = []
    for rank, own in enumerate(arguments):
        if environment:
            environment = environment | {'RANK': str(rank), 'LOCAL_RANK': str(rank)}
        child = FORKS.Process(target=_run, args=(run, folder / f'out{rank}', environment, own))
        child.start()
        running.append(child)
    return running


def finish(running: list[multiprocessing.Process], folder: Path, seconds: float = 90) -> None:
    """Wait for processes that must end without an error, and end those that do not end."""
    deadline = time.monotonic() + seconds
    for process in running:
        process.join(max(0, deadline - time.monotonic()))
    hung = [rank for rank, process in enumerate(running) if process.exitcode is None]
    for rank in hung:
        running[rank].kill()
        running[rank].join()
    codes = [process.exitcode for process in running]
    shown = '\n'.join(
        (folder / f'out{r}').read_text()[-3000:] for r, code in enumerate(codes) if code
    )
    assert not any(codes), (
        f'exit codes {codes}; after {seconds} s ranks {hung} had not ended\n{shown}'
    )


def run_tool(name: str, *words, folder: Path, count: int = 1, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a script of tools/ in ``count`` processes, in the folder ``cwd``.

    Returns:
        The greatest exit code, and what the first process wrote to its standard output and error.
    """
    if count > 1:
        words = (*words, '--launcher', 'pytorch')
    arguments = {'name': name, 'words': [str(word) for word in words], 'cwd': cwd}
    running = start(call_tool, folder, [arguments] * count)
    for process in running:
        process.join(300)
        process.kill()
        process.join()
    shown = (folder / 'out0').read_text()
    return max(abs(process.exitcode) for process in running), shown


def call_tool(name: str, words: list[str], cwd: Path) -> None:
    """Run a script of tools/ in this process, from the folder ``cwd``."""
    os.chdir(cwd)
    sys.argv = [f'tools/{name}.py', *words]
    runpy.run_path(str(ROOT / 'tools' / f'{name}.py'), run_name='__main__')


def _run(run: Callable, out: Path, environment: dict[str, str], arguments: dict) -> None:
    gc.freeze()  # what the server has imported; mmengine collects for every data set
    os.environ.update(environment)
    shown = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(shown, 1)
    os.dup2(shown, 2)
    torch.set_num_threads(1)
    line.run(lambda: run(**arguments))
