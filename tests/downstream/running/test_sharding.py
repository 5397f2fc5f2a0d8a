"""Sharded models: every backbone's blocks are units, and only one process builds a whole model."""

import os
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.distributed.fsdp import FSDPModule

from backbones import TimmBackbone
from downstream.running.checkpoint import files, sharding
from tests import processes

from .test_checkpoints import tiny_run

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
    """Any backbone with a head on its last map."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone = backbone_of(kind)
        self.head = nn.LazyConv2d(1, 1)
        self(torch.zeros(2, 8))

    def forward(self, inputs, mode='loss'):
        numbers = torch.stack(list(inputs))
        images = numbers[:, :3, None, None] * torch.linspace(-1, 1, 64).view(1, 1, 1, -1)
        maps = self.backbone(images.expand(-1, -1, 64, -1).contiguous())
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


def run_two(folder: Path, **arguments) -> None:
    for process in processes.start(sharded_run, folder, [arguments] * 2):
        process.join(120)
        assert process.exitcode == 0, (folder / 'out0').read_text()[-3000:]


@pytest.mark.parametrize(
    ('kind', 'units'),
    [
        ('plain', 0),
        pytest.param('swin', 4, marks=pytest.mark.slow),
        ('resnet', 4),
    ],
)
def test_a_sharded_model_is_trained_as_a_whole_one(kind, units, tmp_path):
    run_two(tmp_path, kind=kind, work_dir=tmp_path / 'whole', units=0)
    run_two(tmp_path, kind=kind, work_dir=tmp_path / 'sharded', units=units, sharded=True)
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
    for process in processes.start(saving_process, tmp_path, arguments):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()[-3000:]
    first, second = (float((tmp_path / f'peak{rank}').read_text()) for rank in range(2))
    assert first > 0.9 * 128
    assert second < 0.5 * 128


def test_the_optimizer_is_gathered_in_its_usual_form(tmp_path):
    for process in processes.start(gathering_process, tmp_path, [{}] * 2):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()[-3000:]


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
    from mmengine.optim import OptimWrapper

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
