"""The steps for the first minutes with a GPU, without one."""

import json
import sys

import pytest
import torch

from benchmarks import first_gpu
from benchmarks.first_gpu import ROOT, Step


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert first_gpu.main(tmp_path / 'out') == 0
    assert capsys.readouterr().out.strip().splitlines() == [
        'There is no GPU that PyTorch can use; nothing was run.'
    ]
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('gpus', [1, 4])
def test_the_steps(gpus, tmp_path):
    steps = first_gpu.steps(gpus, tmp_path)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert names[0] == 'machine'
    assert names[-1] == 'speed'
    assert ('sharded' in names) == (gpus > 1)
    # What they run exists.
    for step in steps:
        for word in step.command:
            if word.endswith(('.py', '.sh')) or word.startswith(('tests/', 'tools/')):
                assert (ROOT / word).exists(), word
        if '-c' in step.command:
            compile(step.command[-1], step.name, 'exec')


def test_a_failed_step_is_reported_and_the_rest_runs(tmp_path, capsys):
    def step(name: str, code: str, seconds: int = 60) -> Step:
        return Step(name, (sys.executable, '-c', code), seconds)

    steps = [
        step('good', 'print("3 passed")'),
        step('bad', 'raise ValueError("no ptxas")'),
        step('hangs', 'import time; time.sleep(60)', seconds=1),
        Step('missing', ('no-such-command',), 9),
        step('last', ''),
    ]
    assert first_gpu.run_all(steps, tmp_path) == 3
    printed = capsys.readouterr().out
    assert '| bad | FAILED |' in printed
    assert '| last | passed |' in printed
    verdicts = json.loads((tmp_path / 'verdicts.json').read_text())
    assert [v['passed'] for v in verdicts] == [True, False, False, False, True]
    assert verdicts[0]['detail'] == 'exit code 0; 3 passed'
    assert verdicts[1]['detail'] == 'exit code 1; ValueError: no ptxas'
    assert verdicts[2]['detail'] == 'not done after 1 s'
    assert 'no-such-command' in verdicts[3]['detail']
