"""Settings that matter on a GPU: fused optimizers, averages in one operation, cuDNN's search, memory."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS, MODELS
from torch import nn

from backbones import ConfigError
from downstream.running import ForeachExponentialMovingAverage, SuiteRunner
from downstream.running import config as run_config
from downstream.running.config import TrainOptions, training_config
from downstream.running.gpu_memory import GPUMemoryError
from downstream.running.optimizer_kernels import keep_implementation
from downstream.running.options.batch import keep_batch
from downstream.running.test import evaluate
from tests.conftest import EXAMPLES, ROOT, write_tiny_config
from tests.downstream.running.tiny_run import REGULAR, tiny_run

FUSED = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, fused=True))
PLAIN = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01))


def fused_of(runner) -> set:
    return {group['fused'] for group in runner.optim_wrapper.optimizer.param_groups}


@pytest.mark.parametrize(('first', 'then'), [(PLAIN, FUSED), (FUSED, PLAIN)])
def test_a_resumed_optimizer_is_fused_if_the_config_says_so(first, then, tmp_path):
    """PyTorch takes this option from the checkpoint."""
    hooks = dict(default_hooks=REGULAR, custom_hooks=[])
    tiny_run(tmp_path, epochs=1, optim_wrapper=copy.deepcopy(first), **hooks)
    resumed = tiny_run(tmp_path, epochs=2, resume=True, optim_wrapper=copy.deepcopy(then), **hooks)
    assert fused_of(resumed) == {then['optimizer'].get('fused')}
    state = resumed.optim_wrapper.optimizer.state_dict()['state']
    assert {int(values['step']) for values in state.values()} == {6}


def test_a_resumed_fused_optimizer_takes_the_loss_scale():
    """A loss scaler leaves unscaling to an optimizer that was made as a fused one."""
    model = nn.Linear(3, 1)
    plain = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    plain.step()
    saved = plain.state_dict()
    expected, found = copy.deepcopy(model), copy.deepcopy(model)
    results = []
    for copied, fused in ((expected, False), (found, True)):
        optimizer = torch.optim.AdamW(copied.parameters(), lr=0.1, fused=fused)
        state = copy.deepcopy(saved)
        keep_implementation(state, optimizer)
        optimizer.load_state_dict(state)
        scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10)
        optimizer.zero_grad()
        scaler.scale(copied(torch.ones(1, 3)).sum() ** 2).backward()
        scaler.step(optimizer)
        results.append(copied.weight.detach())
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], model.weight)


@pytest.mark.parametrize('cuda', [False, True])
def test_a_fused_optimizer_is_for_cuda_alone(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    config = str(ROOT / EXAMPLES['segmentation'])
    options = {'optim_wrapper.optimizer.fused': True}
    cfg = training_config(TrainOptions(config, cfg_options=options))
    assert cfg.optim_wrapper.optimizer.get('fused', False) == cuda


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 1))


@pytest.mark.parametrize('update_buffers', [False, True])
@pytest.mark.parametrize('interval', [1, 2])
def test_averages_in_one_operation_are_those_of_mmengine(update_buffers, interval):
    torch.manual_seed(0)
    model = Net()
    options = dict(momentum=0.0123, interval=interval, update_buffers=update_buffers)
    expected = ExponentialMovingAverage(model, **options)
    found = MODELS.build(dict(type='ForeachExponentialMovingAverage', model=model, **options))
    assert type(found) is ForeachExponentialMovingAverage
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = copy.deepcopy(found.module.state_dict())
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 3, 3)).square().mean().backward()
        optimizer.step()
        expected.update_parameters(model)
        found.update_parameters(model)
    expected, found = expected.state_dict(), found.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert not torch.equal(found['module.0.weight'], start['0.weight'])


def test_float64_averages_are_equal_up_to_rounding():
    model = nn.Linear(3, 2).double()
    both = [
        cls(model, momentum=2e-4)
        for cls in (ExponentialMovingAverage, ForeachExponentialMovingAverage)
    ]
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(1.0)
        for average in both:
            average.update_parameters(model)
    expected, found = (average.module.weight for average in both)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not torch.equal(found, model.weight)


def test_averages_in_one_operation_count_steps_of_the_optimizer():
    cfg = Config.fromfile(ROOT / 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py')
    cfg.custom_hooks = [dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage')]
    keep_batch(cfg, 2)
    assert cfg.custom_hooks[0]['interval'] == 4
    cfg.custom_hooks = [
        dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', begin_epoch=1)
    ]
    with pytest.raises(ConfigError, match='counts passes'):
        keep_batch(cfg, 2)


@HOOKS.register_module()
class SeenBenchmarkHook(Hook):
    """Notes in which phases cuDNN would search."""

    seen: list[tuple[str, bool]] = []

    def before_train_iter(self, *args, **kwargs) -> None:
        self.seen.append(('train', torch.backends.cudnn.benchmark))

    def before_val_iter(self, *args, **kwargs) -> None:
        self.seen.append(('val', torch.backends.cudnn.benchmark))


@pytest.fixture
def cudnn():
    """The settings of cuDNN, as they were afterwards."""
    with torch.backends.cudnn.flags(benchmark=False):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('deterministic', [False, True])
def test_cudnn_searches_in_training_alone(deterministic, cudnn, tmp_path):
    SeenBenchmarkHook.seen.clear()
    tiny_run(
        tmp_path,
        epochs=2,
        env_cfg=dict(cudnn_benchmark=True),
        custom_hooks=[dict(type='SeenBenchmarkHook')],
        default_hooks=REGULAR | dict(cudnn_benchmark=dict(type='CudnnBenchmarkHook')),
        randomness=dict(deterministic=deterministic),
        val_dataloader=dict(
            dataset=dict(type='NoiseDataset'), sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='ScriptedMetric', figures=[1, 2]),
    )
    assert {searches for phase, searches in SeenBenchmarkHook.seen if phase == 'val'} == {False}
    in_training = [searches for phase, searches in SeenBenchmarkHook.seen if phase == 'train']
    assert in_training == [not deterministic] * 6


def test_cudnn_searches_where_crops_have_one_size():
    for path in (ROOT / 'configs' / '_base_' / 'protocols').glob('*.py'):
        cfg = Config.fromfile(path)
        assert cfg.env_cfg.cudnn_benchmark == (cfg.default_scope != 'mmdet'), path.name
        assert cfg.default_hooks.cudnn_benchmark.type == 'CudnnBenchmarkHook', path.name
        assert cfg.env_cfg.dist_cfg.backend == 'cpu:gloo,cuda:nccl', path.name


_OUT_OF_MEMORY = (
    'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10.00 GiB of which '
    '1.00 GiB is free. Of the allocated memory 7.00 GiB is allocated by PyTorch, and 1.00 GiB is '
    'reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting X.'
)


@HOOKS.register_module()
class FullGPUHook(Hook):
    def before_train_iter(self, *args, **kwargs) -> None:
        raise torch.OutOfMemoryError(_OUT_OF_MEMORY)


def test_a_full_gpu_is_one_line_with_advice(tmp_path):
    with pytest.raises(GPUMemoryError) as caught:
        tiny_run(tmp_path, epochs=1, custom_hooks=[dict(type='FullGPUHook')])
    message = str(caught.value)
    assert message.startswith('CUDA out of memory. Tried to allocate 2.00 GiB.')
    assert 'setting X' not in message
    for word in ('--amp', 'with_cp=True', 'sharded=True', 'expandable_segments:True'):
        assert word in message


def test_a_full_gpu_in_a_test_is_one_line_with_advice(shapes, tmp_path, monkeypatch):
    def full(self) -> None:
        raise torch.OutOfMemoryError(_OUT_OF_MEMORY)

    monkeypatch.setattr(SuiteRunner, 'test', full)
    torch.save({'state_dict': {'a': torch.ones(1)}}, tmp_path / 'a.pth')
    config = write_tiny_config('segmentation', shapes, tmp_path)
    options = run_config.TestOptions(
        str(config), checkpoint=str(tmp_path / 'a.pth'), work_dir=str(tmp_path)
    )
    with pytest.raises(GPUMemoryError, match=r'2\.00 GiB.*test_dataloader\.batch_size=1'):
        evaluate(options)
