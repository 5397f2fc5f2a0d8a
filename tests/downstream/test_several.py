"""Several processes: one that hangs is named, and all go on from the same checkpoint."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream import command_line
from downstream.running.hanging import HangHook, _Seen
from tests.downstream.test_saving import tiny_run

FORKS = multiprocessing.get_context('forkserver')


@HOOKS.register_module()
class HangingHook(Hook):
    """Makes the second process hang in its fifth step."""

    def __init__(self, how: str) -> None:
        self.how = how

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter != 4 or os.environ['RANK'] != self.how[-1]:
            return
        if self.how.startswith('stopped'):
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)


def run_of_rank(folder: Path, environment: dict[str, str], **changes) -> None:
    os.environ.update(environment)
    out = os.open(folder / f'out{environment["RANK"]}', os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    work_dir = folder / changes.pop('work_dir', 'run')
    command_line.run(lambda: tiny_run(work_dir, **changes))


def start(folder: Path, changes: list[dict]) -> list:
    FORKS.set_forkserver_preload([__name__])
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = str(free.getsockname()[1])
    meeting = {'WORLD_SIZE': str(len(changes)), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    running = []
    for rank, arguments in enumerate(changes):
        environment = meeting | {'RANK': str(rank), 'LOCAL_RANK': str(rank)}
        running.append(
            FORKS.Process(target=run_of_rank, args=(folder, environment), kwargs=arguments)
        )
        running[-1].start()
    return running


@pytest.mark.parametrize('how', ['asleep 1', 'stopped 1', 'stopped 0'])
def test_a_process_that_hangs_is_named(how, tmp_path):
    hooks = [dict(type='HangingHook', how=how), dict(type='HangHook', minutes=0.05)]
    running = start(tmp_path, [{'custom_hooks': hooks}] * 2)
    guilty = int(how[-1])
    innocent = running[1 - guilty]
    innocent.join(60)
    assert innocent.exitcode == 1
    if how.startswith('asleep'):
        running[guilty].join(30)
        assert running[guilty].exitcode == 1
    running[guilty].kill()
    shown = (tmp_path / f'out{1 - guilty}').read_text()
    assert 'Nothing has moved for 0.05 minutes' in shown
    line = next(line for line in shown.splitlines() if 'Nothing has moved' in line)
    what = 'hang: rank' if how.startswith('asleep') else 'do not answer: rank'
    assert f'{what} {guilty}' in line
    if how.startswith('asleep'):
        place = f'on {socket.gethostname()}, iteration 4, in its step (downstream/test_several.py:'
        assert place in line
    assert f'rank {1 - guilty} on' not in line


def test_who_is_behind():
    def seen(*parts):
        return {rank: _Seen(rank, progress=p, waiting=w) for rank, (p, w) in enumerate(parts)}

    assert HangHook._behind(seen((8, True), (7, False))) == [1]
    assert HangHook._behind(seen((8, True), (7, True), (8, False))) == [1]
    assert HangHook._behind(seen((8, True), (8, False), (8, True))) == [1]
    assert HangHook._behind(seen((8, True), (8, True))) == [0, 1]


def test_processes_that_would_go_on_from_different_steps(tmp_path):
    for name, epochs in (('short', 1), ('long', 2)):
        for process in start(tmp_path, [{'work_dir': name, 'epochs': epochs}] * 2):
            process.join(60)
    names = ['short', 'long']
    running = start(tmp_path, [{'work_dir': n, 'resume': True, 'epochs': 3} for n in names])
    for process in running:
        process.join(60)
        assert process.exitcode == 2
    shown = (tmp_path / 'out0').read_text()
    assert 'would go on from different checkpoints: rank 0' in shown
    assert 'short/iter_2.pth, iteration 2; rank 1' in shown
