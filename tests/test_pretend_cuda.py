"""Training and tests on a pretended GPU: no operator mixes devices, and waits of the host are counted."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS, DefaultScope
from mmengine.runner import Runner

from downstream.running.config import RunOptions, read_config
from downstream.running.hooks.finite import FiniteLossHook
from tests.conftest import write_tiny_config
from tests.pretend_cuda import Waits, pinned, pretended_cuda


class Run:
    """Model, loader and optimizer of a short run, and what its steps made the host wait for."""

    def __init__(self, task: str, shapes: Path, folder: Path, waits: Waits, **options) -> None:
        device = options.pop('device', 'cuda')
        options.setdefault('optim_wrapper.type', 'OptimWrapper')
        self.cfg = read_config(
            RunOptions(
                str(write_tiny_config(task, shapes, folder)),
                backbone=options.pop('backbone', None),
                cfg_options=options,
            )
        )
        self.waits = waits
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            torch.manual_seed(0)
            self.model = revert_sync_batchnorm(MODELS.build(self.cfg.model)).to(device)
            self.wrapper = build_optim_wrapper(self.model, self.cfg.optim_wrapper)

    def batch(self, kind: str) -> dict:
        cfg = self.cfg[f'{kind}_dataloader']
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            return pinned(next(iter(Runner.build_dataloader(copy.deepcopy(cfg), seed=0))))

    def train(self) -> dict:
        """Two steps, of which the second one's waits are counted; its losses."""
        batch = self.batch('train')
        hook = FiniteLossHook()
        runner = SimpleNamespace(
            model=self.model, optim_wrapper=self.wrapper, iter=0, hooks=[], work_dir=''
        )
        hook.before_train(runner)
        self.model.train()
        for _ in range(2):
            with self.waits.counted():
                hook.before_train_iter(runner, 0, batch)
                losses = self.model.train_step(batch, self.wrapper)
                hook.after_train_iter(runner, 0, batch, losses)
                losses = {name: loss.item() for name, loss in losses.items()}  # as the log's hook
        hook.close()
        return losses

    def test(self) -> list:
        """Test one batch; the results in the metric."""
        batch = self.batch('test')
        self.model.eval()
        with self.waits.counted(), torch.no_grad():
            samples = self.model.test_step(batch)
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            metric = METRICS.build(self.cfg.test_evaluator)
        metric.dataset_meta = {'classes': ('a', 'b', 'c', 'd')}
        metric.process(batch, [sample.to_dict() for sample in samples])
        return metric.results


@pytest.fixture
def waits():
    with pretended_cuda() as counted:
        yield counted


# Measured; fewer are better, then write the new number here. Of a GPU's time each is some microseconds
# in which it has nothing to do.
@pytest.mark.parametrize(
    ('task', 'in_training', 'in_test'), [('detection', 289, 56), ('segmentation', 12, 1)]
)
def test_the_host_waits_no_more_than_it_did(task, in_training, in_test, waits, shapes, tmp_path):
    run = Run(task, shapes, tmp_path, waits)
    losses = run.train()
    assert losses['loss'] > 0
    assert waits.total('running/hooks/') == 1, waits
    assert waits.total() <= in_training, waits
    results = run.test()
    assert results
    assert waits.total() <= in_test, waits


def test_the_pretended_device_notices_what_cuda_would(waits):
    host, device = torch.ones(3), torch.ones(3).to('cuda')
    with pytest.raises(RuntimeError, match='same device'):
        host + device
    with pytest.raises(TypeError, match='NumPy'):
        device.numpy()
    assert (device * torch.tensor(2.0)).device.type == 'cuda'  # a number goes along by value
    with waits.counted():
        device.sum().item()
        device[device > 0]
        torch.ones(3).to('cuda')
        pinned(torch.ones(3)).to('cuda', non_blocking=True)
        device.cpu()
        device.new_zeros(2) + torch.zeros(2, device='cuda')
    assert sorted(what for what, _ in waits.places.elements()) == [
        '_local_scalar_dense',
        'from host',
        'mask as index',
        'to host',
    ]
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match='deterministic'):
            device.long().bincount()
    finally:
        torch.use_deterministic_algorithms(False)
