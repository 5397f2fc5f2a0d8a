"""The steps for the first minutes with a GPU, without one."""

import argparse
import copy
import importlib.util
import json
import shutil
import sys
from itertools import pairwise

import pytest
import torch
from mmengine.config import Config

from benchmarks import first_gpu
from benchmarks.first_gpu import ROOT, Step
from benchmarks.stop_and_resume import stop_and_resume
from downstream.commands.line import parse_run_arguments
from tests.conftest import write_tiny_config


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert first_gpu.main(tmp_path / 'out') == 0
    assert capsys.readouterr().out.strip().splitlines() == [
        'There is no GPU that PyTorch can use; nothing was run.'
    ]
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('gpus', [1, 4])
@pytest.mark.parametrize('sanitizer', [None, '/usr/local/cuda/bin/compute-sanitizer'])
def test_the_steps(gpus, sanitizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: sanitizer)
    steps = first_gpu.steps(gpus, tmp_path)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert names[0] == 'machine'
    assert names[-1] == 'speed'
    on_several = {'all-gpus', 'stop-and-resume', 'sharded', 'sharded-slide'}
    assert on_several & set(names) == (on_several if gpus > 1 else set())
    assert ('sanitizer' in names) == (sanitizer is not None)
    assert [line.partition(':')[0] for line in first_gpu.left_out(gpus)] == [
        *([] if sanitizer else ['sanitizer']),
        *([] if gpus > 1 else ['several GPUs']),
    ]
    assert all(step.advice.endswith('.') for step in steps)
    # What they run exists.
    for step in steps:
        for word in step.command:
            if word.endswith(('.py', '.sh')) or word.startswith(('tests/', 'tools/')):
                assert (ROOT / word).exists(), word
        if '-c' in step.command:
            compile(step.command[-1], step.name, 'exec')
        for module in (word for flag, word in pairwise(step.command) if flag == '-m'):
            assert importlib.util.find_spec(module), module


def test_options_of_the_trainings_make_configs(tmp_path, monkeypatch):
    """Their words are those of the command line."""
    bases, trained = {}, []
    for step in first_gpu.steps(2, tmp_path):
        if 'tools/train.py' in step.command:
            words = step.command[2:]
        elif step.command[0] == 'tools/dist_train.sh':
            words = (step.command[1], *step.command[3:])
        else:
            continue
        parser = argparse.ArgumentParser()
        parser.add_argument('config')
        parser.add_argument('--amp', choices=['fp16', 'bf16'])
        monkeypatch.setattr(sys, 'argv', ['train', *words])
        args = parse_run_arguments(parser)
        if args.config not in bases:
            bases[args.config] = Config.fromfile(ROOT / args.config)
        cfg = copy.deepcopy(bases[args.config])
        cfg.merge_from_dict(args.cfg_options)
        assert cfg.randomness.seed == 7
        assert args.work_dir == str(tmp_path / step.name)
        trained.append((step.name, cfg))
    assert len(trained) == 13
    cfgs = dict(trained)
    assert cfgs['sharded-slide'].model.test_cfg == dict(
        mode='slide', crop_size=(128, 128), stride=(85, 85)
    )
    assert cfgs['fused-optimizer'].optim_wrapper.optimizer.fused is True


def test_a_failed_step_is_reported_and_the_rest_runs(tmp_path, capsys):
    def step(name: str, code: str, seconds: int = 60) -> Step:
        return Step(name, (sys.executable, '-c', code), seconds, f'Leave {name} out.')

    steps = [
        step('good', 'print("3 passed")'),
        step('bad', 'raise ValueError("no ptxas")'),
        step('hangs', 'import time; time.sleep(60)', seconds=1),
        Step('missing', ('no-such-command',), 9, 'Install it.'),
        step('last', ''),
    ]
    assert first_gpu.run_all(steps, tmp_path, ['sanitizer: not here']) == 3
    printed = capsys.readouterr().out
    assert '| bad | FAILED |' in printed
    assert '| last | passed |' in printed
    assert f'what to do: bad: Leave bad out. Log: {tmp_path}/bad.log' in printed
    assert 'what to do: good' not in printed
    assert 'left out: sanitizer: not here' in printed
    report = json.loads((tmp_path / 'verdicts.json').read_text())
    assert len(report['what to do']) == 3
    assert report['left out'] == ['sanitizer: not here']
    verdicts = report['verdicts']
    assert [v['passed'] for v in verdicts] == [True, False, False, False, True]
    assert verdicts[0]['detail'] == 'exit code 0; 3 passed'
    assert verdicts[1]['detail'] == 'exit code 1; ValueError: no ptxas'
    assert verdicts[2]['detail'] == 'not done after 1 s'
    assert 'no-such-command' in verdicts[3]['detail']


@pytest.mark.slow
def test_a_run_is_stopped_and_resumed(shapes, tmp_path):
    """On the CPU, in two processes."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    options = ['train_cfg.max_iters=12', 'train_cfg.val_interval=12', 'randomness.seed=1']
    found = stop_and_resume(str(config), 2, tmp_path / 'run', options)
    assert found.endswith('resumed to iteration 12')


def test_a_run_that_makes_no_step_cannot_be_stopped(tmp_path):
    with pytest.raises(RuntimeError, match='no step was logged'):
        stop_and_resume(str(tmp_path / 'no-such-config.py'), 0, tmp_path / 'run', [])
