"""Several processes: one that hangs is named, and all go on from the same checkpoint."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.running.checkpoint import files, sharding
from downstream.running.hooks import finite, hanging
from downstream.running.hooks.hanging import Report, collective_timeout, hanging_processes
from downstream.running.hooks.preemption import SIGNALS
from tests.conftest import ROOT, write_tiny_config
from tests.downstream.running.tiny_run import TinyRegressor, tiny_run
from tests.support import processes


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


def start(folder: Path, changes: list[dict]) -> list:
    """Small runs that know of each other."""
    arguments = [{'work_dir': folder / 'run', **own} for own in changes]
    return processes.start(run_with_hooks, folder, arguments)


def run_with_hooks(**arguments) -> None:
    """A run where the hooks of this module are known."""
    tiny_run(**arguments)


@pytest.mark.parametrize('how', ['asleep 1', 'stopped 1', 'stopped 0'])
def test_a_process_that_hangs_is_named(how, tmp_path):
    hooks = [dict(type='HangingHook', how=how), dict(type='HangHook', minutes=0.1)]
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
    assert 'Nothing has moved for 0.1 minutes' in shown
    line = next(line for line in shown.splitlines() if 'Nothing has moved' in line)
    what = 'hang: rank' if how.startswith('asleep') else 'do not answer: rank'
    assert f'{what} {guilty}' in line
    if how.startswith('asleep'):
        host = socket.gethostname()
        place = f'on {host}, iteration 4, forward pass (running/test_several_processes.py:'
        assert place in line
    assert f'rank {1 - guilty} on' not in line


def test_who_hangs():
    def found(*parts):
        return hanging_processes(
            Report(rank, progress=progress, waiting=waiting)
            for rank, (progress, waiting) in enumerate(parts)
        )

    assert found((8, True), (7, False)) == [1]
    assert found((8, True), (7, True), (8, False)) == [1]
    assert found((8, True), (8, False), (8, True)) == [1]
    assert found((8, True), (8, True)) == [0, 1]


def test_who_waits():
    """Under NCCL processes wait for their GPU: where the finite check reads from it."""
    assert hanging.waits_for_others(['/a/train.py', finite.__file__])
    assert hanging.waits_for_others([dist.distributed_c10d.__file__])
    assert not hanging.waits_for_others(['/a/train.py', hanging.__file__])


def test_a_hanging_process_without_standard_error_ends(monkeypatch):
    hook, ended = hanging.HangHook(), []
    hook._rank, hook._reports = 0, {0: Report(0)}
    for name in ('stderr', '__stderr__'):
        monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(hanging.os, '_exit', ended.append)
    hook._end([0], silent=False)
    assert ended == [1]


def test_a_hang_is_reported_before_a_collective_gives_up():
    """Of the shipped configs, with CUDA."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'runtime' / 'default.py')
    dist_cfg = cfg.env_cfg.dist_cfg
    limit = 60 * cfg.default_hooks.hanging.minutes
    assert limit < collective_timeout(dist_cfg, dist_cfg.backend)
    assert collective_timeout({}, 'nccl') == 600
    assert collective_timeout({'timeout': 900}, 'nccl') == 900


@HOOKS.register_module()
class FailingHook(Hook):
    """Raises in the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 2:
            raise ValueError('as expected')


def fail_and_look(**arguments) -> None:
    """A training that raises leaves neither threads nor signal handlers nor hooks of the model."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    models = []
    hook = type('ModelHook', (Hook,), {'before_train': lambda self, r: models.append(r.model)})
    hooks = [dict(type='HangHook', minutes=1), dict(type='PreemptionHook')]
    hooks += [dict(type='FiniteLossHook'), dict(type='FailingHook'), hook()]
    with pytest.raises(ValueError, match='as expected'):
        tiny_run(custom_hooks=hooks, **arguments)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(thread.name == 'hanging' for thread in threading.enumerate()):
            break
        time.sleep(0.1)
    else:
        raise AssertionError('the threads of HangHook are alive')
    assert not models[0].module._forward_hooks
    print('nothing is left')


def test_a_failed_training_leaves_nothing_behind(tmp_path):
    arguments = [{'work_dir': tmp_path / 'run'}] * 2
    for process in processes.start(fail_and_look, tmp_path, arguments):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    assert 'nothing is left' in (tmp_path / 'out0').read_text()


def test_all_go_on_from_what_one_of_them_goes_on_from(tmp_path):
    """A machine that joins again does not know that the run was started again."""
    work_dir = tmp_path / 'run'
    run_in(work_dir, epochs=1)
    plans = [{'work_dir': work_dir, 'epochs': 2, 'resume': resume} for resume in (False, True)]
    for process in start(tmp_path, plans):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    assert files.newest_whole(work_dir)[1]['meta']['iter'] == 4
    expected = run_in(tmp_path / 'whole', epochs=2)['state_dict']
    found = files.newest_whole(work_dir)[1]['state_dict']
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def run_on_own_disk(folder: Path, **changes) -> None:
    os.chdir(folder / os.environ['RANK'])
    tiny_run('run', **changes)


def test_checkpoints_of_one_name_and_different_content(tmp_path):
    run_in(tmp_path / 'run', epochs=1)
    for rank in '01':
        shutil.copytree(tmp_path / 'run', tmp_path / rank / 'run')
    path = tmp_path / '1' / 'run' / 'iter_2.pth'
    content = files.verified(path)
    content['meta']['iter'] = 1
    torch.save(content, path)
    path.with_name(f'{path.name}.sha256').unlink()
    arguments = [{'folder': tmp_path, 'resume': True, 'epochs': 2}] * 2
    for process in processes.start(run_on_own_disk, tmp_path, arguments):
        process.join(60)
        assert process.exitcode == 2
    shown = (tmp_path / 'out0').read_text()
    assert 'would go on from different checkpoints: rank 0' in shown
    assert 'run/iter_2.pth, iteration 2; rank 1' in shown


def run_in(work_dir: Path, **changes) -> dict:
    """What a run of two processes has saved at its end."""
    for process in start(work_dir.parent, [{'work_dir': work_dir, **changes}] * 2):
        process.join(60)
        assert process.exitcode == 0, (work_dir.parent / 'out0').read_text()
    return files.newest_whole(work_dir)[1]


def require_close(found: dict, expected: dict) -> None:
    for key, value in expected['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][key], value, msg=key)
    for index, values in expected['optimizer']['state'].items():
        for name, value in values.items():
            torch.testing.assert_close(found['optimizer']['state'][index][name], value)


@HOOKS.register_module()
class ShardedHook(Hook):
    """Makes sure that a run is what it is said to be."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        local = sum(sharding.local(p).numel() for p in runner.model.parameters())
        whole = sum(p.numel() for p in runner.model.parameters())
        assert local < 0.6 * whole


def test_a_sharded_run_is_a_whole_one(tmp_path):
    """Same losses, same weights, same optimizer; checkpoints go from one form into the other."""
    guarded = {'custom_hooks': [dict(type='FiniteLossHook')]}
    expected = run_in(tmp_path / 'whole', **guarded)
    assert expected['meta']['iter'] == 10
    hooks = [dict(type='FiniteLossHook'), dict(type='ShardedHook')]
    found = run_in(tmp_path / 'sharded', sharded=True, custom_hooks=hooks)
    require_close(found, expected)
    # three epochs in shards and two as a whole; and the other way round
    run_in(tmp_path / 'mixed', sharded=True, epochs=3, **guarded)
    require_close(run_in(tmp_path / 'mixed', resume=True, **guarded), expected)
    run_in(tmp_path / 'other', epochs=3, **guarded)
    again = run_in(tmp_path / 'other', resume=True, sharded=True, **guarded)
    require_close(again, expected)
    # into one process, without any sharding
    model = TinyRegressor()
    model.load_state_dict(found['state_dict'])


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_sharded_models(task, shapes, tmp_path):
    """Whole detectors and segmenters, block by block, by the launch script."""
    config = write_tiny_config(task, shapes, tmp_path)
    with open(config, 'a') as file:
        file.write('randomness = dict(seed=7)\ndefault_hooks = dict(checkpoint=dict(interval=1))\n')
        file.write("optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, _delete_=True))\n")
    states = []
    for name in ('whole', 'sharded'):
        words = [ROOT / 'tools' / 'dist_train.sh', config, '2', '--work-dir', tmp_path / name]
        words += ['--cfg-options', f'sharded={name == "sharded"}']
        result = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, check=False,
            env={**os.environ, 'PYTHON': sys.executable},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        states.append(files.newest_whole(tmp_path / name)[1]['state_dict'])
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-5, msg=key)
