"""Pretrained weights of several processes: read by the first one, sent to all, and so are its errors."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.distributed as dist
import torchvision
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from backbones import ConvNeXt
from backbones.errors import WeightsError
from backbones.weights import load
from downstream.running.weights.initialise import initialise, initialise_randomly
from tests.support import processes

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


def forbidden(*_: object, **__: object) -> None:
    raise URLError('Name or service not known')


def resnet(checkpoint: str) -> BaseModule:
    from mmdet.models import ResNet

    model = BaseModule()
    model.backbone = ResNet(18, init_cfg={'type': 'Pretrained', 'checkpoint': checkpoint})
    return model


def test_weights_of_openmmlab_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'urlopen', forbidden)
    with pytest.raises(WeightsError) as caught:
        initialise(resnet('torchvision://resnet18'))
    message = str(caught.value)
    file = tmp_path / 'hub' / 'checkpoints' / 'resnet18-f37072fd.pth'
    assert message.startswith(
        'the pretrained weights torchvision://resnet18 (model.backbone.init_cfg.checkpoint) cannot be '
        'downloaded from https://download.pytorch.org/models/resnet18-f37072fd.pth (Name or service not '
        f'known). Without network, put the file at {file}, or name a file with --cfg-options '
        'model.backbone.init_cfg.checkpoint=FILE; --cfg-options model.backbone.init_cfg=None trains'
    )
    with pytest.raises(
        WeightsError, match=r'--cfg-options model.pretrained=FILE; --cfg-options model.p'
    ):
        initialise(resnet('torchvision://resnet18'), by_model=True)

    state = torchvision.models.resnet18().state_dict()  # the advice is right
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    model = resnet('torchvision://resnet18')
    initialise(model)
    assert torch.equal(model.backbone.conv1.weight, state['conv1.weight'])

    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f'cannot be read .*: {file} is damaged. Replace it'):
        initialise(resnet('torchvision://resnet18'))


def test_a_file_of_weights_that_is_missing_is_named(tmp_path):
    with pytest.raises(
        WeightsError, match=f'there is no file {tmp_path}/nowhere.pth. Put it there'
    ):
        initialise(resnet(f'{tmp_path}/nowhere.pth'))


def test_a_name_that_torchvision_does_not_know_is_named():
    with pytest.raises(
        WeightsError, match=r'torchvision://resnet19 .*not known to it. Correct the name'
    ):
        initialise(resnet('torchvision://resnet19'))


def test_other_errors_of_an_initialisation_are_not_taken_for_weights():
    class Odd(BaseModule):
        def init_weights(self) -> None:
            raise RuntimeError('odd')

    with pytest.raises(RuntimeError, match='odd') as caught:
        initialise(Odd())
    assert not isinstance(caught.value, WeightsError)


def test_weights_are_drawn_where_the_file_stands_in_an_attribute():
    """mmdet's DetectoRS loads what its constructor took out of ``init_cfg``."""
    from mmdet.models.backbones import DetectoRS_ResNet

    pretrained = dict(type='Pretrained', checkpoint='no/such/file.pth')
    backbone = DetectoRS_ResNet(depth=50, base_channels=4, stem_channels=4, init_cfg=pretrained)
    before = backbone.conv1.weight.clone()
    initialise_randomly(backbone)
    assert not torch.equal(backbone.conv1.weight, before)
