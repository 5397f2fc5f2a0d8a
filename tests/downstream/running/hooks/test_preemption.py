"""A signal to stop: the run finishes its step and saves, and no process leaves before that is done."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.distributed.processes import complete_environment, is_first_process, process_count
from downstream.running.checkpoint import files, writer
from downstream.running.hooks.preemption import PreemptionHook
from tests.conftest import ROOT, write_tiny_config
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes

CHECKPOINT = files.INTERRUPTED


@HOOKS.register_module()
class LateSignalHook(Hook):
    """Sends a signal to the last process in an iteration, and again while the checkpoint is written."""

    def __init__(self, step: int = 2, seconds: float = 2, error: bool = False) -> None:
        self.step, self.seconds, self.error = step, seconds, error

    def before_train(self, runner) -> None:
        self._write, writer.write = writer.write, self._write_slowly

    def after_train(self, runner) -> None:
        writer.write = self._write

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == self.step and runner.rank == runner.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _write_slowly(self, content, path) -> None:
        if CHECKPOINT not in path.name:
            return self._write(content, path)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.seconds)
        if self.error:
            raise OSError(28, 'No space left on device')
        return self._write(content, path)


def run_signalled(nccl: bool = False, **arguments) -> None:
    """A run that is stopped; with ``nccl`` it leaves as it would leave a group of NCCL."""
    backend = dist.get_backend

    def pretended(*args):
        leaving = sys._getframe(1).f_code.co_name == 'leave_process_group'
        return 'nccl' if leaving else backend(*args)

    if nccl:
        dist.get_backend = pretended
    hooks = dict(preemption=dict(type='PreemptionHook'), checkpoint=None)
    tiny_run(default_hooks=hooks, epochs=20, **arguments)


@pytest.mark.parametrize(
    ('count', 'nccl'),
    [
        (2, True),
        (3, False),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(4, False, marks=pytest.mark.slow),
    ],
)
def test_no_process_leaves_before_the_checkpoint_is_written(count, nccl, tmp_path):
    """A launcher kills the others when the first one leaves."""
    hooks = [dict(type='FiniteLossHook'), dict(type='LateSignalHook')]
    arguments = {'work_dir': tmp_path / 'run', 'nccl': nccl, 'custom_hooks': hooks}
    running = processes.start(run_signalled, tmp_path, [arguments] * count)
    deadline = time.monotonic() + 90
    while all(process.exitcode is None for process in running):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # what Slurm does with --kill-on-bad-exit
    for process in running:
        process.kill()
        process.join()
    path, content = files.newest_whole(tmp_path / 'run')
    assert path.name == CHECKPOINT
    assert content['meta']['iter'] == 4  # the signal comes after the exchange of iteration 2
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == str(path)


def test_all_processes_fail_where_the_first_one_cannot_write(tmp_path):
    hooks = [dict(type='LateSignalHook', seconds=0, error=True)]
    arguments = {'work_dir': tmp_path / 'run', 'custom_hooks': hooks}
    for process in processes.start(run_signalled, tmp_path, [arguments] * 2):
        process.join(60)
        assert process.exitcode == 2, (tmp_path / 'out0').read_text()
    assert 'cannot be written (No space left on device)' in (tmp_path / 'out0').read_text()
    assert 'was not written; another process reports why' in (tmp_path / 'out1').read_text()


def test_a_signal_is_answered_at_once(capfd):
    """A validation may take an hour, in which nothing else tells that the signal has arrived."""
    hook = PreemptionHook()
    hook.before_train(None)
    try:
        hook.before_val(None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (
            'SIGTERM: the run saves and exits when the validation and one' in capfd.readouterr().err
        )
        os.kill(os.getpid(), signal.SIGUSR1)
        assert capfd.readouterr().err == ''  # once
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        hook.before_train(None)
        os.kill(os.getpid(), signal.SIGINT)
        answer = capfd.readouterr().err
        assert 'SIGINT: the run saves and exits when this step is done. Ctrl-C now stops' in answer
    finally:
        hook.close()


def test_the_environment_of_launchers(monkeypatch):
    """DistributedDataParallel gets LOCAL_RANK, mmengine takes the GPU of the launcher's own variable."""
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # and restored after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '3')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '1')
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
    assert not is_first_process()
    assert process_count('mpi') == 4
    complete_environment('mpi')
    assert os.environ['LOCAL_RANK'] == '1'
    assert 'MASTER_PORT' not in os.environ


def slurm_port(monkeypatch, job: int, step: int) -> int:
    monkeypatch.delenv('MASTER_PORT', raising=False)
    monkeypatch.setenv('SLURM_JOB_ID', str(job))
    monkeypatch.setenv('SLURM_STEP_ID', str(step))
    complete_environment('slurm')
    port = int(os.environ['MASTER_PORT'])
    monkeypatch.delenv('MASTER_PORT')
    return port


def test_two_jobs_of_slurm_meet_at_different_ports(monkeypatch):
    for name in ('LOCAL_RANK', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')
    ports = [slurm_port(monkeypatch, *ids) for ids in ((4711, 0), (4712, 0), (4711, 1), (99999, 2))]
    assert len(set(ports)) == 4
    assert all(20000 <= port < 30000 for port in ports)
    assert slurm_port(monkeypatch, 4711, 0) == ports[0]
    monkeypatch.setenv('MASTER_PORT', '31000')
    complete_environment('slurm')
    assert os.environ['MASTER_PORT'] == '31000'


# A stand-in for srun: two tasks, on gloo because there is no GPU; the first bad exit kills the others.
SRUN = """#!{python}
import os, subprocess, sys, time
words = sys.argv[sys.argv.index('-u') - 1:]
words[words.index('slurm')] = 'pytorch'
environment = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT='29711')
tasks = [
    subprocess.Popen(words, env=dict(environment, RANK=rank, LOCAL_RANK=rank)) for rank in '01'
]
while all(task.poll() in (None, 0) for task in tasks) and any(t.poll() is None for t in tasks):
    time.sleep(0.01)
bad = [task.poll() for task in tasks if task.poll()]
for task in tasks:
    task.kill()
sys.exit(bad[0] if bad else 0)
"""


@pytest.mark.slow
def test_a_job_of_slurm_saves_before_it_is_killed(shapes, tmp_path):
    """``slurm_train.sh``, a signal, a slow disk: exit code 75 and a whole checkpoint."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    hook = f"dict(type='{__name__}.LateSignalHook', step=0, seconds=5)"
    config.write_text(config.read_text() + f'custom_hooks = [{hook}]\n')
    for name, body in (
        ('srun', SRUN.format(python=sys.executable)),
        ('scontrol', f'#!/bin/sh\necho "$@" > {tmp_path}/called\n'),
    ):
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    own = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': sys.executable}
    own |= {'SLURM_JOB_ID': '42', 'SLURM_NTASKS': '2'}
    words = [str(ROOT / 'tools' / 'slurm_train.sh'), 'partition', 'job', str(config)]
    result = subprocess.run(
        [*words, str(tmp_path / 'run')], env={**os.environ, **own}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 75, result.stderr[-2000:]
    path, content = files.newest_whole(tmp_path / 'run')
    assert path.name == CHECKPOINT
    assert content['meta']['iter'] == 2
    assert (tmp_path / 'called').read_text() == 'requeue 42\n'


def test_torchrun_gives_time_to_save(tmp_path):
    """It passes USR1 on as well, which its own list lacks and which would end it."""
    python = tmp_path / 'python'
    python.write_text(
        f'#!{sys.executable}\nimport json, os, sys\n'
        'names = "PET_SHUTDOWN_TIMEOUT", "PET_SIGNALS_TO_HANDLE"\n'
        'print(json.dumps([{n: os.environ.get(n) for n in names}, sys.argv]))\n'
    )
    python.chmod(0o755)
    words = [str(ROOT / 'tools' / 'dist_train.sh'), 'config.py', '2', '--resume']
    for seconds, own in (('300', {}), ('60', {'SHUTDOWN': '60'})):
        result = subprocess.run(
            words, env={**os.environ, 'PYTHON': str(python), **own}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        environment, argv = json.loads(result.stdout)
        assert environment['PET_SHUTDOWN_TIMEOUT'] == seconds
        assert 'SIGUSR1' in environment['PET_SIGNALS_TO_HANDLE'].split(',')
        assert argv[-1] == '--resume'
    from torch.distributed.run import get_args_parser

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        options = get_args_parser().parse_args(['tool.py'])
    assert int(options.shutdown_timeout) == 60
    assert 'SIGUSR1' in options.signals_to_handle
