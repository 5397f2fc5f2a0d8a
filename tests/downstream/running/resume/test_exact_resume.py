"""An interrupted and resumed run ends with the parameters of an undisturbed one, bit for bit."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from torch.nn.parallel import DistributedDataParallel

from downstream.running.checkpoint import files
from downstream.running.config import TrainOptions, training_config
from downstream.running.hooks.preemption import PreemptedError
from downstream.running.resume.gradient_order import GradientOrder
from downstream.running.resume.seeded_data import IndexWithDraw, SeededDataset, SkippingBatchSampler
from downstream.running.runner import SuiteRunner
from downstream.running.train import train
from tests.conftest import ROOT, write_tiny_config
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes

# Four steps: two epochs of two in detection. Drop path and augmentation draw random numbers.
LONGER = {
    'detection': """
train_cfg.update(max_epochs=2, val_interval=9)
model['backbone'] = dict(drop_path_rate=0.3)
default_hooks = dict(checkpoint=dict(interval=9))
custom_hooks = []
""",
    'segmentation': """
train_cfg.update(max_iters=4, val_interval=9)
model['backbone'] = dict(drop_path_rate=0.3)
default_hooks = dict(checkpoint=dict(interval=9))
custom_hooks = []
""",
}
WORKERS = 'train_dataloader.update(num_workers=2, persistent_workers=True)\n'
VARIANTS = {
    'plain': '',
    'workers': WORKERS,
    'averaged': "custom_hooks.append(dict(type='EMAHook', momentum=0.1))\n",
    'bfloat16': "optim_wrapper = dict(type='BFloat16OptimWrapper')\n",
    'accumulated': 'optim_wrapper = dict(accumulative_counts=2)\n',
}


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.step and not runner._resume:
            os.kill(os.getpid(), signal.SIGUSR1)


def config_of(task: str, shapes, folder, extra: str = ''):
    path = write_tiny_config(task, shapes, folder)
    with open(path, 'a') as file:
        file.write(LONGER[task] + extra + 'randomness = dict(seed=7)\n')
    return path


def final_state(runner) -> dict[str, torch.Tensor]:
    state = {f'model.{k}': v for k, v in runner.model.state_dict().items()}
    for index, values in runner.optim_wrapper.state_dict()['state'].items():
        state |= {f'{index}.{k}': torch.as_tensor(v) for k, v in values.items()}
    for hook in runner.hooks:
        if hasattr(hook, 'ema_model'):
            state |= {f'ema.{k}': v for k, v in hook.ema_model.state_dict().items()}
    return state


def undisturbed(config, folder) -> dict[str, torch.Tensor]:
    return final_state(train(TrainOptions(str(config), work_dir=str(folder)), check_data='no'))


def interrupted(config, folder, step: int, tmp_path) -> dict[str, torch.Tensor]:
    """Stop in the middle of ``step``, and resume."""
    stopping = tmp_path / f'stopping_{step}.py'
    stopping.write_text(
        f"_base_ = '{config}'\n"
        f'custom_hooks = [*_base_.custom_hooks, dict(type="SignalHook", step={step})]\n'
    )
    with pytest.raises(PreemptedError, match='SIGUSR1 after saving'):
        train(TrainOptions(str(stopping), work_dir=str(folder)), check_data='no')
    # other random numbers in between, and no seed: the checkpoint has it
    config.write_text(config.read_text().replace('randomness = dict(seed=7)\n', ''))
    torch.manual_seed(99)
    options = TrainOptions(str(config), work_dir=str(folder), resume='auto')
    return final_state(train(options, check_data='no'))


def require_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    different = [k for k, v in expected.items() if not torch.equal(found[k], v)]
    assert not different, f'{len(different)} of {len(expected)}: {different[:3]}'


@pytest.mark.parametrize(
    ('task', 'variant', 'step'),
    [
        ('detection', 'plain', 0),  # in the middle of an epoch
        ('detection', 'plain', 1),  # with the last step of one
        ('segmentation', 'plain', 0),
        ('segmentation', 'workers', 1),
        ('segmentation', 'averaged', 2),
        ('segmentation', 'accumulated', 0),  # stops after the next step, when nothing is pending
    ],
)
def test_a_resumed_run_is_the_undisturbed_one(task, variant, step, shapes, tmp_path):
    config = config_of(task, shapes, tmp_path, VARIANTS[variant])
    expected = undisturbed(config, tmp_path / 'whole')
    require_equal(interrupted(config, tmp_path / 'parts', step, tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize('task', LONGER)
@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('step', [0, 1, 2])
def test_the_whole_matrix(task, variant, step, shapes, tmp_path):
    config = config_of(task, shapes, tmp_path, VARIANTS[variant])
    expected = undisturbed(config, tmp_path / 'whole')
    require_equal(interrupted(config, tmp_path / 'parts', step, tmp_path), expected)


def test_the_number_of_workers_changes_nothing(shapes, tmp_path):
    states = []
    for name, extra in (('none', ''), ('two', WORKERS)):
        (tmp_path / name).mkdir()
        config = config_of('segmentation', shapes, tmp_path / name, extra)
        states.append(undisturbed(config, tmp_path / name / 'run'))
    require_equal(*states)


@pytest.mark.slow
@pytest.mark.parametrize('task', LONGER)
def test_two_processes_resume_exactly(task, shapes, tmp_path):
    config = config_of(task, shapes, tmp_path)

    def launch(work_dir, *options) -> int:
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
        command += ['--nproc_per_node=2', str(ROOT / 'tools' / 'train.py'), str(config)]
        command += ['--launcher', 'pytorch', '--work-dir', str(work_dir), *options]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        return subprocess.run(command, env=environment, check=False, capture_output=True).returncode

    # four images: with two each, an epoch of detection is one step
    step = {'detection': 0, 'segmentation': 1}[task]
    last = {'detection': 'epoch_2.pth', 'segmentation': 'iter_4.pth'}[task]
    hook = f'custom_hooks.append(dict(type="{__name__}.SignalHook", step={step}))\n'
    text = config.read_text().replace('interval=9)', 'interval=2)')
    config.write_text(text)
    assert launch(tmp_path / 'whole') == 0
    config.write_text(text + hook)
    assert launch(tmp_path / 'parts') != 0
    assert (tmp_path / 'parts' / files.INTERRUPTED).is_file()
    config.write_text(text)
    assert launch(tmp_path / 'parts', '--resume') == 0
    states = [files.verified(tmp_path / n / last)['state_dict'] for n in ('whole', 'parts')]
    require_equal(*states)


@MODELS.register_module()
class TwistedRegressor(BaseModel):
    """Its layers are not used in the order in which they are defined."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(40, 40) for _ in range(5))
        self.first = torch.nn.Linear(8, 40)

    def forward(self, inputs, mode='loss'):
        maps = self.first(torch.stack(inputs))
        for index in (3, 0, 4, 1, 2):
            maps = self.layers[index](maps).sin()
        return {'loss': maps.square().mean()}


TWISTED = dict(type='TwistedRegressor')


def stop_and_resume(folder: Path, **changes) -> SuiteRunner:
    """A run as a whole, and in two parts, each with a DistributedDataParallel of its own."""
    for name, epochs, request in (('whole', 3, False), ('parts', 2, False), ('parts', 3, 'auto')):
        runner = tiny_run(
            folder / name,
            request=request,
            epochs=epochs,
            model=TWISTED,
            custom_hooks=[],
            **changes,
        )
    return runner


def require_equal_parts(count: int, folder: Path, **changes) -> None:
    arguments = [{'folder': folder, **changes}] * count
    processes.finish(processes.start(stop_and_resume, folder, arguments), folder)
    require_same_training(folder / 'parts', folder / 'whole')


def require_same_training(found: Path, expected: Path) -> None:
    """Weights and optimizer of the newest checkpoints are equal, bit for bit."""
    parts, whole = (files.newest_whole(folder)[1] for folder in (found, expected))
    assert whole['meta']['iter'] == parts['meta']['iter']
    require_equal(parts['state_dict'], whole['state_dict'])
    for index, values in whole['optimizer']['state'].items():
        require_equal(parts['optimizer']['state'][index], values)


def resume_and_copy(folder: Path) -> None:
    """Besides, a run whose gradients are copied into the buckets instead of being views of them."""
    assert stop_and_resume(folder).model.gradient_as_bucket_view
    copies = dict(gradient_as_bucket_view=False)
    changes = dict(epochs=3, model=TWISTED, custom_hooks=[], model_wrapper_cfg=copies)
    assert not tiny_run(folder / 'copies', **changes).model.gradient_as_bucket_view
    require_order_of_another_model()


def require_order_of_another_model() -> None:
    """A checkpoint may know parameters that are frozen or gone, and lack some that are trained now."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    layers[1].requires_grad_(False)
    model = DistributedDataParallel(layers)
    order = GradientOrder(model, ['gone', '2.bias', '1.bias', '0.weight'])
    assert order.names == ['2.bias', '0.weight', '0.bias', '2.weight']
    assert all(p.grad is None for p in model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert GradientOrder(layers).names == []


def test_three_processes_resume_exactly(tmp_path):
    """The order of gradients in buckets decides in which order they are added up."""
    running = processes.start(resume_and_copy, tmp_path, [{'folder': tmp_path}] * 3)
    processes.finish(running, tmp_path)
    for name in ('parts', 'copies'):
        require_same_training(tmp_path / name, tmp_path / 'whole')


@HOOKS.register_module()
class DyingHook(Hook):
    """Kills the second process at its first start."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        first = os.environ.get('TORCHELASTIC_RESTART_COUNT') == '0'
        if runner.iter == 3 and first and os.environ['RANK'] == '1':
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again(shapes, tmp_path):
    """MAX_RESTARTS=1 tools/dist_train.sh goes on from the newest whole checkpoint, exactly."""
    config = config_of('segmentation', shapes, tmp_path)
    text = config.read_text().replace('checkpoint=dict(interval=9)', 'checkpoint=dict(interval=2)')
    hook = f'custom_hooks.append(dict(type="{__name__}.DyingHook"))\n'
    states = []
    for name, restarts, content in (('whole', '0', text), ('dying', '1', text + hook)):
        config.write_text(content)
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'MAX_RESTARTS': restarts}
        command = [str(ROOT / 'tools' / 'dist_train.sh'), str(config), '2']
        result = subprocess.run(
            [*command, '--work-dir', str(tmp_path / name)],
            env={**environment, 'PYTHON': sys.executable}, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        states.append(files.verified(tmp_path / name / 'iter_4.pth')['state_dict'])
    require_equal(*states)


@pytest.mark.parametrize('script_name', ['slurm_train.sh', 'slurm_pretrain.sh'])
@pytest.mark.parametrize(('code', 'requeued'), [(75, True), (0, False), (1, False)])
def test_slurm_queues_a_preempted_run_again(code, requeued, script_name, tmp_path):
    for name, body in (('srun', f'exit {code}'), ('scontrol', f'echo "$@" > {tmp_path}/called')):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\n{body}\n')
        script.chmod(0o755)
    environment = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '42'}
    words = ['partition', 'job', 'config.py', 'work_dir']
    result = subprocess.run(
        [str(ROOT / 'tools' / script_name), *words], env=environment, check=False
    )
    assert result.returncode == code
    called = tmp_path / 'called'
    assert called.is_file() == requeued
    if requeued:
        assert called.read_text() == 'requeue 42\n'


@pytest.mark.parametrize('variable', ['TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'])
def test_a_run_that_is_started_again_resumes(variable, shapes, tmp_path, monkeypatch):
    config = config_of('segmentation', shapes, tmp_path)
    monkeypatch.setenv(variable, '1')
    cfg = training_config(TrainOptions(str(config), work_dir=str(tmp_path)))
    assert cfg.resume
    assert cfg.load_from is None  # nothing there yet: a fresh start
    monkeypatch.setenv(variable, '0')
    assert not training_config(TrainOptions(str(config), work_dir=str(tmp_path))).resume


def test_the_command_line_says_how_it_ended(shapes, tmp_path):
    """SIGTERM to a real process: exit code 75, one line, a whole checkpoint."""
    config = config_of('segmentation', shapes, tmp_path)
    hook = f'custom_hooks.append(dict(type="{__name__}.SignalHook", step=1))\n'
    config.write_text(config.read_text() + hook)
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config)]
    result = subprocess.run(
        [*command, '--work-dir', str(tmp_path / 'run')],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 75, result.stderr
    assert re.search(r'stopped by SIGUSR1 after saving .*interrupted.pth; --resume', result.stderr)
    assert 'Traceback' not in result.stderr
    path, content = files.newest_whole(tmp_path / 'run')
    assert path.name == files.INTERRUPTED
    assert content['meta']['iter'] == 2
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == str(path)


class Numbers:
    """Samples that are nothing but random numbers."""

    metainfo = 'here'

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple:
        return index, np.random.rand(), torch.rand(()).item()


def test_a_draw_has_its_own_random_numbers():
    dataset = SeededDataset(Numbers(), seed=3)
    first = dataset[IndexWithDraw(2, 10)]
    np.random.rand(5)
    assert dataset[IndexWithDraw(2, 10)] == first
    assert dataset[IndexWithDraw(2, 11)] != first  # the same sample in another epoch
    assert SeededDataset(Numbers(), seed=4)[IndexWithDraw(2, 10)] != first
    assert dataset.metainfo == 'here'
    assert len(dataset) == 4


def test_what_a_hook_writes_is_the_data_sets():
    """PipelineSwitchHook gives the data set of a loader another pipeline."""
    numbers = Numbers()
    SeededDataset(numbers, seed=3).pipeline = 'another'
    assert numbers.pipeline == 'another'


def test_skipped_batches_are_left_out_once():
    batches = SkippingBatchSampler(
        torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(6)), 2, False)
    )
    batches.skip_once(2)
    assert list(batches) == [[4, 5]]
    assert list(batches) == [[0, 1], [2, 3], [4, 5]]
