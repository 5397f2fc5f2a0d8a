"""The probe for the largest batch trains a real step, and finds the batch that memory allows."""

import pytest
import torch
from mmengine.config import Config

from backbones import ConfigError
from downstream.running import batch_probe
from tests.conftest import EXAMPLES, ROOT

MB = 2**20


@pytest.mark.parametrize('task', EXAMPLES)
def test_a_step_on_random_images_trains_the_model(task):
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    batch_probe.run_steps(cfg, 2, (64, 96), steps=1)


def test_the_batch_on_a_cpu_is_what_free_memory_allows(monkeypatch):
    seen = []

    def run(batch: int) -> None:
        seen.append(batch)
        torch.ones(batch * 100 * MB // 4).sum()

    peak = batch_probe._peak_in_child(run, 1)
    monkeypatch.setattr(batch_probe, 'free_memory', lambda: round((peak + 500 * MB) / 0.85))
    found = batch_probe._largest_on_cpu(run, 1)
    assert 5 <= found <= 7  # one, and five more of 100 MB
    monkeypatch.setattr(batch_probe, 'free_memory', lambda: peak // 2)
    assert batch_probe._largest_on_cpu(run, 1) < 1
    assert not seen  # nothing of it ran in this process


def test_a_step_that_fails_is_said():
    def run(batch: int) -> None:
        raise RuntimeError

    with pytest.raises(ConfigError, match='a step of 2 images failed'):
        batch_probe._peak_in_child(run, 2)


def test_several_processes_cannot_probe():
    with pytest.raises(ConfigError, match='is for one process'):
        batch_probe.largest_batch(Config.fromfile(ROOT / EXAMPLES['detection']), 2)
