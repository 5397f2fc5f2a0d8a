"""Training and tests on a pretended GPU: no operator mixes devices, and waits of the host are counted."""

import contextlib
import copy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import METRICS, MODELS, DefaultScope
from mmengine.runner import Runner, set_random_seed
from mmengine.runner import amp as mmengine_amp
from torch import nn

from downstream.running import config as run_config
from downstream.running.config import RunOptions, read_config
from downstream.running.hooks.finite import FiniteLossHook
from tests.conftest import EXAMPLES, write_tiny_config
from tests.support.plain import FourStages
from tests.support.pretend_cuda import Waits, pinned, pretended_cuda


class PlainNet(FourStages):
    """A user's class that declares nothing: four maps from strided convolutions with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 24, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below, width, 4 if first else 2, 4 if first else 2),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for first, (below, width) in zip((True, False, False, False), pairwise(widths))
        )


class Run:
    """Model, loader and optimizer of a short run, and what its steps made the host wait for.

    Args:
        task: ``'detection'`` or ``'segmentation'``.
        shapes: The data set.
        folder: For the config.
        waits: Of the pretended device.
        backbone: Instead of ConvNeXt-Atto.
        wrapper: The class of the optimizer wrapper.
        options: Changes of the config.
    """

    def __init__(
        self,
        task: str,
        shapes: Path,
        folder: Path,
        waits: Waits,
        backbone: str | None = None,
        wrapper: str = 'OptimWrapper',
        **options,
    ) -> None:
        self.config = str(write_tiny_config(task, shapes, folder))
        changes = {'optim_wrapper.type': wrapper} | options
        self.cfg = read_config(RunOptions(self.config, backbone=backbone, cfg_options=changes))
        self.waits = waits
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            set_random_seed(
                0
            )  # how often the host waits depends on the images and on what is sampled
            self.model = revert_sync_batchnorm(MODELS.build(self.cfg.model)).to('cuda')
            with fp16_possible():
                self.wrapper = build_optim_wrapper(self.model, self.cfg.optim_wrapper)

    def batch(self, kind: str) -> dict:
        cfg = self.cfg[f'{kind}_dataloader']
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            return pinned(next(iter(Runner.build_dataloader(copy.deepcopy(cfg), seed=0))))

    def train(self, *hooks: Hook) -> dict:
        """Two steps, of which the second one's waits are counted; its losses."""
        batch = self.batch('train')
        hooks = (FiniteLossHook(), *hooks)
        runner = SimpleNamespace(
            cfg=self.cfg,
            model=self.model,
            optim_wrapper=self.wrapper,
            iter=0,
            epoch=0,
            max_iters=2,
            hooks=[],
            work_dir='',
        )
        for hook in hooks:
            hook.before_run(runner)
            hook.before_train(runner)
        self.model.train()
        for runner.iter in range(2):
            with self.waits.counted():
                for hook in hooks:
                    hook.before_train_iter(runner, 0, batch)
                losses = self.model.train_step(batch, self.wrapper)
                for hook in hooks:
                    hook.after_train_iter(runner, 0, batch, losses)
                losses = {name: loss.item() for name, loss in losses.items()}  # as the log's hook
        hooks[0].close()
        return losses

    def test(self, way: str = 'as it is') -> list:
        """Test one batch; the results in the metric."""
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            model, batch = self._model_to_test(way)
            model.eval()
            with self.waits.counted(), torch.no_grad():
                samples = model.test_step(batch)
            metric = METRICS.build(self.cfg.test_evaluator)
        metric.dataset_meta = {'classes': ('a', 'b', 'c', 'd')}
        metric.process(batch, [sample.to_dict() for sample in samples])
        return metric.results

    def _model_to_test(self, way: str) -> tuple[nn.Module, dict]:
        if way == 'TTA':
            path = Path(self.config).with_suffix('.pth')
            torch.save({'state_dict': {'a': torch.zeros(1)}}, path)
            options = run_config.TestOptions(self.config, checkpoint=str(path), tta=True)
            cfg = run_config.testing_config(options)
            cfg.model.module = self.model
            loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
            return MODELS.build(cfg.model), pinned(next(iter(loader)))
        model = copy.copy(self.model)
        if way == 'soft-NMS':
            model.roi_head.test_cfg.nms = ConfigDict(type='soft_nms', iou_threshold=0.5)
        if way == 'sliding windows':
            model.test_cfg = ConfigDict(mode='slide', crop_size=(96, 96), stride=(64, 64))
        return model, self.batch('test')


@contextlib.contextmanager
def fp16_possible():
    """Within it a loss scaler believes that there is CUDA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, 'is_available', lambda: True)
        patch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
        yield


@pytest.fixture
def waits(monkeypatch):
    # Autocast of a step asks for the device of the machine.
    monkeypatch.setattr(mmengine_amp, 'get_device', lambda: 'cuda')
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
    assert waits.total('running/hooks/') == 1, str(waits)
    assert waits.total() <= in_training, str(waits)
    results = run.test()
    assert results
    assert waits.total() <= in_test, str(waits)


@pytest.mark.parametrize(
    ('task', 'allowed'),
    [
        ('detection', {'training': 289, 'as it is': 51, 'TTA': 205, 'soft-NMS': 55}),
        ('segmentation', {'training': 12, 'as it is': 1, 'TTA': 7, 'sliding windows': 2}),
    ],
)
def test_a_plain_backbone_with_all_that_is_for_gpus(task, allowed, waits, shapes, tmp_path):
    """fp16 with its loss scaler, a fused optimizer, averaged weights, and every way to test."""
    run = Run(
        task,
        shapes,
        tmp_path,
        waits,
        backbone='tests.test_pretend_cuda:PlainNet',
        wrapper='AmpOptimWrapper',
        **{'optim_wrapper.optimizer.fused': True, 'optim_wrapper.loss_scale': 128.0},
    )
    averaged = EMAHook(ema_type='ForeachExponentialMovingAverage', momentum=0.5)
    losses = run.train(averaged)
    assert losses['loss'] > 0
    assert run.wrapper.loss_scaler.get_scale() == 128
    assert waits.total('running/hooks/') == 1, str(waits)
    assert waits.total('averag', 'ema_hook') == 0, str(waits)
    averages = averaged.ema_model.module.parameters()
    for (name, source), average in zip(run.model.named_parameters(), averages):
        if name.startswith('backbone'):
            assert not torch.equal(source.inner, average.inner), name
    found = {'training': waits.total()}
    for way in list(allowed)[1:]:
        assert run.test(way)
        found[way] = waits.total()
    assert all(found[way] <= count for way, count in allowed.items()), found


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        dict(wrapper='BFloat16OptimWrapper', **{'model.backbone.with_cp': True}),
        dict(wrapper='AmpOptimWrapper'),
        dict(backbone='timm:regnety_002'),
    ],
    ids=['bf16-with-cp', 'fp16', 'timm'],
)
@pytest.mark.parametrize(
    ('task', 'in_training', 'in_test'), [('detection', 287, 54), ('segmentation', 13, 1)]
)
def test_other_backbones_and_precisions(
    options, task, in_training, in_test, waits, shapes, tmp_path
):
    run = Run(task, shapes, tmp_path, waits, **options)
    losses = run.train()
    assert losses['loss'] > 0
    assert waits.total('running/hooks/') == 1, str(waits)
    assert waits.total() <= in_training, str(waits)
    assert run.test()
    assert waits.total() <= in_test, str(waits)


@pytest.mark.slow
def test_what_is_not_deterministic_in_training(waits, shapes, tmp_path, recwarn):
    """As docs/runs.md says: the detector is exact, the segmenter's loss and pooling are not."""
    found = {}
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for task in EXAMPLES:
            Run(task, shapes, tmp_path, waits).train()
            messages = [str(w.message) for w in recwarn.list]
            recwarn.clear()
            found[task] = {m.split()[0] for m in messages if 'deterministic implement' in m}
    finally:
        torch.use_deterministic_algorithms(False)
    assert found['detection'] == set()
    assert {'nll_loss2d_forward', '_adaptive_avg_pool2d_backward'} <= found['segmentation']


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
