"""Two processes, with whole or sharded models, end where one does that has all images of a step."""

import torch
from mmengine.registry import TRANSFORMS
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from backbones.convnext.visible import VisibleCells, count_seen
from downstream.running.checkpoint import files
from pretraining.data import RandomResizedCropFlip
from tests.support import processes

from .runs import run, write_config

CHANGES = """
train_pipeline[1] = dict(type='CentredCrop', size=64)
train_dataloader['dataset']['pipeline'] = train_pipeline
"""


@TRANSFORMS.register_module()
class CentredCrop(RandomResizedCropFlip):
    """Random numbers differ between processes; this has none."""

    def transform(self, results: dict) -> dict:
        return self.centred(results)


def cells_by_image(images, cell, mask_ratio, generator=None) -> VisibleCells:
    """Visible cells that depend on an image alone, not on the batch that it is in."""
    height, width = images.shape[2:]
    seen = count_seen(height, width, cell, mask_ratio)
    grid = (height // cell, width // cell)
    visible = torch.zeros(len(images), grid[0] * grid[1], dtype=torch.bool)
    for mask, image in zip(visible, images):
        seed = int(image.double().abs().sum() * 100)
        order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
        mask[order[:seen]] = True
    return VisibleCells(visible.view(-1, *grid))


def train(folder, data, batch: int, **options) -> object:
    """A run of two epochs whose steps have ``batch`` images in each process."""
    folder.mkdir(exist_ok=True)
    config = write_config(folder, f'{CHANGES}train_dataloader["batch_size"] = {batch}\n')
    VisibleCells.drawn = staticmethod(cells_by_image)
    return run(config, data, folder / 'run', **options)


def whole_and_sharded(folder, data) -> None:
    words = dict(batch=1, launcher='pytorch')
    train(folder / 'whole', data, **words)
    runner = train(folder / 'sharded', data, cfg_options={'sharded': True}, **words)
    units = [module for module in runner.model.modules() if isinstance(module, FSDPModule)]
    assert len(units) == 4 + 1 + 1, len(units)  # blocks of encoder and decoder, and the rest


def test_two_processes_end_where_one_does(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(VisibleCells, 'drawn', VisibleCells.drawn)  # to have it back
    data = shapes / 'images' / 'training'
    arguments = [{'folder': tmp_path, 'data': data}] * 2
    running = processes.start(whole_and_sharded, tmp_path / 'out', arguments)
    start = train(tmp_path / 'start', data, batch=2, lr=1e-30).model.state_dict()
    train(tmp_path / 'one', data, batch=2)
    processes.finish(running, tmp_path / 'out')
    expected = files.verified(tmp_path / 'one' / 'run' / 'epoch_2.pth')
    moved = [
        float((value - start[name]).abs().max()) for name, value in expected['state_dict'].items()
    ]
    assert min(moved) > 1e-5  # every parameter has learned
    for name in ('whole', 'sharded'):
        found = files.verified(tmp_path / name / 'run' / 'epoch_2.pth')
        assert found['meta']['processes'] == 2
        assert found['state_dict'].keys() == expected['state_dict'].keys()
        for key, value in expected['state_dict'].items():
            torch.testing.assert_close(found['state_dict'][key], value, msg=f'{name}: {key}')
        averages, own = (state['optimizer']['state'] for state in (expected, found))
        assert own.keys() == averages.keys()
        for index, values in averages.items():
            torch.testing.assert_close(
                own[index]['exp_avg'], values['exp_avg'], rtol=1e-4, atol=1e-7
            )
        encoder = load_file(tmp_path / name / 'run' / 'encoder.safetensors')
        for key, value in encoder.items():
            assert torch.equal(value, found['state_dict'][f'encoder.{key}'])
        assert (tmp_path / name / 'run' / 'reconstructions' / 'epoch_0002.jpg').is_file()
