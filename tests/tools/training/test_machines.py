"""Several machines, each a network namespace of its own with an address of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.running.checkpoint import files
from tests.conftest import ROOT, write_tiny_config

ADDRESSES = ('10.77.0.1', '10.77.0.2')


def ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True)


@pytest.fixture
def machines():
    """Names of two network namespaces with a cable between them."""
    names = [f'machine{rank}-{os.getpid()}' for rank in range(2)]
    made = []
    try:
        for name in names:
            ip('netns', 'add', name)
            made.append(name)
        ip(
            'link',
            'add',
            'cable',
            'netns',
            names[0],
            'type',
            'veth',
            'peer',
            'cable',
            'netns',
            names[1],
        )
        for name, address in zip(names, ADDRESSES):
            ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', 'cable')
            for device in ('cable', 'lo'):
                ip('-n', name, 'link', 'set', device, 'up')
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        for name in made:
            ip('netns', 'del', name)
        pytest.skip(f'no network namespaces here: {error}')
    yield names
    for name in names:
        ip('netns', 'del', name)


@HOOKS.register_module()
class LostMachineHook(Hook):
    """Takes the second machine away, launcher and all, the first time that it comes to a step."""

    def __init__(self, step: int, mark: str) -> None:
        self.step, self.mark = step, mark

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        second = os.environ.get('LOCAL_ADDR') == ADDRESSES[1]
        if second and runner.iter == self.step and not os.path.exists(self.mark):
            open(self.mark, 'w').close()
            os.kill(int(os.environ['LAUNCHER']), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def start(machines: list[str], rank: int, config, work_dir) -> subprocess.Popen:
    """``dist_train.sh`` with one process on a machine."""
    environment = {
        'NNODES': '2',
        'NODE_RANK': str(rank),
        'MASTER_ADDR': ADDRESSES[0],
        'LOCAL_ADDR': ADDRESSES[rank],
        'GLOO_SOCKET_IFNAME': 'cable',
        'MAX_RESTARTS': '3',
        'PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
    }
    # exec keeps the number of the process: that of the launcher
    words = [
        'ip',
        'netns',
        'exec',
        machines[rank],
        'bash',
        '-c',
        'export LAUNCHER=$$; exec "$@"',
        '-',
    ]
    words += [str(ROOT / 'tools' / 'dist_train.sh'), str(config), '1', '--work-dir', str(work_dir)]
    with open(f'{work_dir}-{rank}.log', 'a') as log:
        return subprocess.Popen(
            words, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )


@pytest.mark.slow
def test_a_machine_that_is_lost_may_join_again(machines, shapes, tmp_path):
    """The run ends as the undisturbed one does, bit for bit."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    text = config.read_text() + 'train_cfg.update(max_iters=4, val_interval=9)\n'
    text += 'randomness = dict(seed=7)\n'
    config.write_text(text)
    for process in [start(machines, rank, config, tmp_path / 'whole') for rank in range(2)]:
        assert process.wait(200) == 0, (tmp_path / 'whole-0.log').read_text()[-3000:]
    expected = files.verified(tmp_path / 'whole' / 'iter_4.pth')['state_dict']

    mark = tmp_path / 'lost'
    hook = f"dict(type='tests.tools.training.test_machines.LostMachineHook', step=2, mark='{mark}')"
    config.write_text(f'{text}custom_hooks = [{hook}]\n')
    first, second = (start(machines, rank, config, tmp_path / 'lossy') for rank in range(2))
    assert second.wait(200) == -signal.SIGKILL
    assert mark.exists()
    time.sleep(1)
    second = start(machines, 1, config, tmp_path / 'lossy')
    for process in (first, second):
        assert process.wait(300) == 0, (tmp_path / 'lossy-0.log').read_text()[-3000:]
    found = files.verified(tmp_path / 'lossy' / 'iter_4.pth')['state_dict']
    assert all(torch.equal(found[key], value) for key, value in expected.items())
