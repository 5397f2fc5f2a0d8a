"""Sharded models: every backbone's blocks are units, and only one process builds a whole model."""

import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.distributed.fsdp import FSDPModule

from backbones import ConfigError, TimmBackbone
from downstream.running.checkpoint import files, sharding
from downstream.running.hooks.sharded import ShardedModelHook
from downstream.running.options.batch_probe import release_free_memory
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes

STATUS = Path('/proc/self/status')


class PlainNet(nn.Module):
    """A user's class that declares nothing. Its `blocks` is no method but a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(3)
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        for block in self.blocks:
            images = block(images).relu()
        return (self.norm(images),)


# The smallest of their kinds: blocks of a Swin and of a ResNet.
TIMM = {
    'swin': dict(
        model='swin_tiny_patch4_window7_224',
        model_args=dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    ),
    'resnet': dict(model='test_resnet'),
}


def backbone_of(kind: str) -> nn.Module:
    return PlainNet() if kind == 'plain' else TimmBackbone(**TIMM[kind], out_indices=(3,))


@MODELS.register_module()
class TinyMapRegressor(BaseModel):
    """Any backbone with a head on its last map.

    Each process predicts with another number of passes of the backbone, as sliding windows over images
    of several sizes take.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone = backbone_of(kind)
        self.head = nn.LazyConv2d(1, 1)
        self(torch.zeros(2, 8))

    def forward(self, inputs, mode='loss'):
        numbers = torch.stack(list(inputs))
        images = numbers[:, :3, None, None] * torch.linspace(-1, 1, 64).view(1, 1, 1, -1)
        images = images.expand(-1, -1, 64, -1).contiguous()
        for _ in range(1 + get_rank() if mode == 'predict' else 1):
            maps = self.backbone(images)
        value = self.head(maps[-1]).mean((1, 2, 3))
        if mode == 'predict':
            return [BaseDataElement()]
        return {'loss': (value**2).mean()}


def sharded_run(kind: str, work_dir: Path, units: int, **changes) -> None:
    """A run with validations, after which the best checkpoint is saved as well."""
    runner = tiny_run(
        work_dir,
        model=dict(type='TinyMapRegressor', kind=kind),
        epochs=2,
        custom_hooks=[],
        find_unused_parameters=kind == 'plain',
        val_dataloader=dict(
            dataset=dict(type='NoiseDataset'), sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='ScriptedMetric', figures=[1, 2]),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', interval=1, save_best='auto'),
            logger=dict(type='LoggerHook', interval=1000),
        ),
        **changes,
    )
    found = [m for m in runner.unwrapped_model.backbone.modules() if isinstance(m, FSDPModule)]
    assert len(found) == units, len(found)


def whole_and_sharded(kind: str, folder: Path, units: int) -> None:
    sharded_run(kind, folder / 'whole', 0)
    sharded_run(kind, folder / 'sharded', units, sharded=True)


@pytest.mark.parametrize(
    ('kind', 'units'),
    [
        ('plain', 0),
        pytest.param('swin', 4, marks=pytest.mark.slow),
        ('resnet', 4),
    ],
)
def test_a_sharded_model_is_trained_as_a_whole_one(kind, units, tmp_path):
    arguments = [{'kind': kind, 'folder': tmp_path, 'units': units}] * 2
    processes.finish(processes.start(whole_and_sharded, tmp_path, arguments), tmp_path)
    for name in ('epoch_2.pth', 'best_mIoU_epoch_2.pth'):
        expected, found = (files.verified(tmp_path / d / name) for d in ('whole', 'sharded'))
        assert found['state_dict'].keys() == expected['state_dict'].keys()
        for key, value in expected['state_dict'].items():
            torch.testing.assert_close(found['state_dict'][key], value, msg=key)
    expected, found = (
        files.verified(tmp_path / d / 'epoch_2.pth')['optimizer'] for d in ('whole', 'sharded')
    )
    assert found['state'].keys() == expected['state'].keys()


def saving_process(layers: int, size: int, out: Path) -> None:
    """Gather a sharded model; leave how much more memory that took at its peak, in MiB."""
    torch.manual_seed(0)
    dist.init_process_group('gloo')
    model = nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(layers)))
    sharding.shard(model)
    release_free_memory()  # of the whole model, which would be used again
    before = resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    whole = sharding.gather_model(model)
    peak = resident('VmHWM') - before
    rank = dist.get_rank()
    assert len(whole) == (0 if rank else layers)
    (out / f'peak{rank}').write_text(str(peak))
    dist.barrier()


def resident(name: str) -> float:
    return int(re.search(rf'{name}:\s+(\d+) kB', STATUS.read_text())[1]) / 1024


@pytest.mark.skipif(not STATUS.is_file(), reason='reads the memory of a process from /proc')
def test_the_first_process_alone_holds_a_whole_model(tmp_path):
    layers, size = 32, 1024  # 4 MiB each
    arguments = [{'layers': layers, 'size': size, 'out': tmp_path}] * 2
    processes.finish(processes.start(saving_process, tmp_path, arguments), tmp_path)
    first, second = (float((tmp_path / f'peak{rank}').read_text()) for rank in range(2))
    assert first > 0.9 * 128
    assert second < 0.5 * 128


def test_the_optimizer_is_gathered_in_its_usual_form(tmp_path):
    processes.finish(processes.start(gathering_process, tmp_path, [{}] * 2), tmp_path)


class HalfUsed(nn.Module):
    """Its last layer has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return self.used(x)


def gathering_process() -> None:
    """Whole averages under numbers on the first process, in both directions; nothing elsewhere."""
    dist.init_process_group('gloo')
    torch.manual_seed(0)
    model = HalfUsed()
    sharding.shard(model)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))
    model(torch.ones(2, 4)).sum().backward()
    wrapper.step()
    state = sharding.gather_optimizer(wrapper)
    if dist.get_rank():
        assert state == {}
    else:
        assert sorted(state['state']) == list(range(4))
        assert state['state'][0]['exp_avg'].shape == (4, 4)
        assert type(state['state'][0]['exp_avg']) is torch.Tensor
    buffers = dict(model.named_buffers())
    whole = sharding.gather_model(model)
    for name in whole.keys() & buffers.keys():
        assert whole[name].data_ptr() != buffers[name].data_ptr()
    dist.barrier()
    os._exit(0)


class NotingLinear(nn.Linear):
    """Notes the dtypes of its weight and of its input."""

    dtypes: tuple = ()

    def forward(self, x):
        self.dtypes = self.weight.dtype, x.dtype
        return super().forward(x)


class BlockNet(BaseModel):
    """A backbone of two blocks, and a head."""

    class Backbone(nn.Sequential):
        def blocks(self):
            return tuple(self)

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        layers = [NotingLinear(8, 8), NotingLinear(8, 8)]
        if normed:
            layers.append(nn.BatchNorm1d(8))
        self.backbone, self.head = self.Backbone(*layers), NotingLinear(8, 1)

    def forward(self, x, mode='loss'):
        return self.head(self.backbone(x).sin())


def test_options_of_sharding(tmp_path):
    processes.finish(processes.start(optional_process, tmp_path, [{}] * 2), tmp_path)


def optional_process() -> None:
    dist.init_process_group('gloo')
    require_late_sync()
    require_bfloat16()
    dist.barrier()
    os._exit(0)


def passes_of(model: nn.Module) -> tuple[torch.Tensor, ...]:
    """Two batches of this process."""
    torch.manual_seed(dist.get_rank())
    return torch.randn(2, 3, 8, dtype=next(model.parameters()).dtype).unbind()


def require_late_sync() -> None:
    """Gradients that are reduced once are those that are reduced after each pass, up to rounding."""
    found = []
    for every in (True, False):
        torch.manual_seed(0)
        model = BlockNet().double()
        sharding.shard(model)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1), accumulative_counts=2)
        wrapper.initialize_count_status(model, 0, 2)
        runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
        hook = ShardedModelHook(sync_every_pass=every)
        for index, batch in enumerate(passes_of(model)):
            hook.before_train_iter(runner, index)
            loss = wrapper.scale_loss(model(batch).square().mean())
            wrapper.backward(loss)
            reduced = [p.grad is not None for p in model.parameters()]
            assert all(reduced) if every or index else not any(reduced)
        found.append([p.grad.full_tensor() for p in model.parameters()])
    for late, early in zip(*found):
        torch.testing.assert_close(late, early, rtol=1e-13, atol=1e-15)


def require_bfloat16() -> None:
    """Blocks compute with weights and inputs rounded to bfloat16, everything else in float32."""
    torch.manual_seed(0)
    model = BlockNet()
    reference = copy.deepcopy(model)
    sharding.shard(model, sharding.ShardingOptions(param_dtype='bfloat16'))
    batch, _ = passes_of(model)
    found = model(batch)
    assert [block.dtypes for block in model.backbone] == [(torch.bfloat16,) * 2] * 2
    assert model.head.dtypes == (torch.float32,) * 2
    expected = batch
    for block in reference.backbone.bfloat16():
        expected = block(expected.bfloat16()).float()
    torch.testing.assert_close(found, reference.head(expected.sin()))
    found.sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    # the checkpoint has what the optimizer updates
    assert {value.dtype for value in sharding.gather_model(model).values()} <= {torch.float32}


def test_what_sharding_refuses():
    options = sharding.ShardingOptions
    assert options.from_config(False) is options.from_config(None) is None
    assert options.from_config(True) == options() == options(None, True)
    assert not options.from_config({'sync_every_pass': False}).sync_every_pass
    with pytest.raises(ConfigError, match='no option dtype; it has param_dtype, sync_every_pass'):
        options.from_config({'dtype': 'bfloat16'})
    with pytest.raises(ConfigError, match="sharded='yes' must be True, False or a dict"):
        options.from_config('yes')
    with pytest.raises(ConfigError, match="param_dtype='float16' must be 'bfloat16' or None"):
        options('float16')
    rounded = options('bfloat16')
    with pytest.raises(ConfigError, match='needs a backbone with a method blocks'):
        sharding.shard(nn.Linear(1, 1), rounded)
    with pytest.raises(ConfigError, match='whose blocks have buffers'):
        sharding.shard(BlockNet(normed=True), rounded)
