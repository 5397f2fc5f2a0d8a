"""The probe for the largest batch trains a real step, and finds the batch that memory allows."""

import pytest
import torch
from mmengine.config import Config

from backbones import ConfigError
from downstream.running.config import RunOptions, read_config
from downstream.running.options import batch_probe
from tests.conftest import EXAMPLES, ROOT
from tests.support import processes

MB = 2**20


@pytest.mark.parametrize('task', EXAMPLES)
def test_a_step_on_random_images_trains_the_model(task):
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    batch_probe.run_steps(cfg, 2, (64, 96), steps=1)


@pytest.mark.parametrize('task', EXAMPLES)
def test_a_step_on_images_of_many_bands(task):
    cfg = read_config(RunOptions(str(ROOT / EXAMPLES[task]), bands=(1, 2, 3, 4, 5)))
    batch_probe.run_steps(cfg, 2, (64, 96), steps=1)


def pieces(megabytes: int) -> list[torch.Tensor]:
    """Memory of a heap: larger pieces would be mapped one by one, and unmapped when freed."""
    return [torch.ones(MB // 16 // 4) for _ in range(16 * megabytes)]


def probe(room: int) -> None:
    """The batch found with ``room`` MB free, where an image takes 100."""
    seen = []

    def run(batch: int) -> None:
        seen.append(pieces(100 * batch))

    free = pieces(300)
    last = free.pop()
    del free
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_probe, 'free_memory', lambda: round(room * MB / 0.85))
        print('found', batch_probe._largest_on_cpu(run, 1))
    assert not seen  # nothing of it ran in this process
    del last  # at the end of the heap: what lies before it is the process's, though free


@pytest.mark.parametrize(('room', 'fit'), [(650, 6), (50, 0)])
def test_the_batch_on_a_cpu_is_what_free_memory_allows(room, fit, tmp_path):
    running = processes.start(probe, tmp_path, [{'room': room}])
    processes.finish(running, tmp_path)
    assert (tmp_path / 'out0').read_text() == f'found {fit}\n'


def test_a_step_that_fails_is_said():
    def run(batch: int) -> None:
        raise RuntimeError

    with pytest.raises(ConfigError, match='a step of 2 images failed'):
        batch_probe._taken_in_child(run, 2)


def test_several_processes_cannot_probe():
    with pytest.raises(ConfigError, match='is for one process'):
        batch_probe.largest_batch(Config.fromfile(ROOT / EXAMPLES['detection']), 2)
