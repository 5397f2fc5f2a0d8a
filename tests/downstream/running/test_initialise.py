"""Pretrained weights of several processes: read by the first one, sent to all, and so are its errors."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from backbones import ConvNeXt
from backbones.weights import load
from downstream.running.initialise import initialise
from tests import processes

SIZES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


class Model(BaseModule):
    """A backbone and a head that start from random values of each process's own."""

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        pretrained = {'type': 'Pretrained', 'checkpoint': checkpoint}
        self.backbone = ConvNeXt(SIZES, init_cfg=Config({'cfg': pretrained}).cfg)
        self.head = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def initialising(folder: Path) -> None:
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    torch.manual_seed(rank)
    read = load.read

    def counted(path, *args):
        (folder / f'read{rank}').touch()
        return read(path, *args)

    load.read = counted
    model = Model(str(folder / 'weights.pth'))
    initialise(model)
    torch.save(model.state_dict(), folder / f'state{rank}.pth')


def run(folder: Path) -> list[int]:
    running = processes.start(initialising, folder, [{'folder': folder}] * 2)
    for process in running:
        process.join(100)
    return [process.exitcode for process in running]


def test_the_first_process_alone_reads_pretrained_weights(tmp_path):
    weights = {k: v for k, v in ConvNeXt(SIZES).state_dict().items() if not k.startswith('norm')}
    torch.save(weights, tmp_path / 'weights.pth')
    assert run(tmp_path) == [0, 0], (tmp_path / 'out1').read_text()
    assert [path.name for path in tmp_path.glob('read*')] == ['read0']
    first, second = (torch.load(tmp_path / f'state{rank}.pth') for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, first[f'backbone.{name}']) for name, value in weights.items())


@pytest.mark.parametrize('content', ['', '<html>'])
def test_an_error_of_the_first_process_is_everybodys(tmp_path, content):
    (tmp_path / 'weights.pth').write_text(content)
    assert run(tmp_path) == [2, 2]
    message = 'is empty' if not content else 'is a web page'
    for rank in range(2):
        shown = (tmp_path / f'out{rank}').read_text()
        assert message in shown or not shown, shown
    assert message in (tmp_path / 'out0').read_text()
    assert [path.name for path in tmp_path.glob('read*')] == ['read0']
