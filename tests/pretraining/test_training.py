"""A pre-training from folder to encoder: log, pictures, the file that others load, exact resume."""

import json
import os
import re
import signal

import cv2
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from safetensors import safe_open

from backbones import ConvNeXtV2
from backbones.errors import ConfigError
from backbones.weights.load import load_pretrained
from backbones.weights.sources import find
from downstream.commands.weights import inspect
from downstream.running.config import TrainOptions, training_config
from downstream.running.hooks.preemption import PreemptedError
from pretraining import FCMAE
from pretraining.encoder import licence_of
from pretraining.train import PretrainOptions, pretraining_config

from .runs import RECIPE, final_state, run, write_config

ARCH = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))


@HOOKS.register_module()
class SignalInPretraining(Hook):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.step and not runner._resume:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pretraining')
    data = shapes / 'images' / 'training'
    return run(write_config(folder), data, folder / 'run'), folder / 'run'


def test_the_log_has_the_loss_beside_that_of_predicting_the_mean(trained):
    _, work_dir = trained
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4]
    assert all(0.99 < line['predict_mean'] <= 1 for line in lines)
    assert lines[0]['lr'] == 0
    text = next(work_dir.glob('*/*.log')).read_text()
    assert re.search(r'loss: \d\.\d+ +predict_mean: (1\.0000|0\.99\d\d)', text)


def test_pictures_are_drawn_at_the_end(trained):
    _, work_dir = trained
    (path,) = (work_dir / 'reconstructions').iterdir()
    assert path.name == 'epoch_0002.jpg'
    height, width = cv2.imread(str(path)).shape[:2]
    assert width == 3 * 64
    assert 3 * 64 < height < 3 * 64 + 40  # with one line of titles


def test_pictures_show_original_visible_cells_and_prediction(trained):
    runner, _ = trained
    hook = next(h for h in runner.hooks if type(h).__name__ == 'ReconstructionPicturesHook')
    before = torch.get_rng_state()
    picture = hook.picture(runner.model, runner.train_dataloader.dataset)
    assert torch.equal(torch.get_rng_state(), before)
    assert (picture == hook.picture(runner.model, runner.train_dataloader.dataset)).all()
    last = picture[-64:]
    original, visible, completed = last[:, :64], last[:, 64:128], last[:, 128:]
    cells = [(slice(y, y + 32), slice(x, x + 32)) for y in (0, 32) for x in (0, 32)]
    same = [(original[cell] == visible[cell]).all() for cell in cells]
    assert sum(same) == 1  # int(4 * 0.4)
    shown = cells[same.index(True)]
    assert (completed[shown] == original[shown]).all()
    for cell, seen in zip(cells, same):
        if not seen:
            assert visible[cell].std((0, 1)).max() == 0
            assert (completed[cell] != visible[cell]).any()


def test_a_backbone_loads_the_encoder_whole(trained, capsys):
    runner, work_dir = trained
    path = work_dir / 'encoder.safetensors'
    backbone = ConvNeXtV2(ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    own, encoder = backbone.state_dict(), runner.model.encoder.state_dict()
    assert {name for name in own if not re.match(r'norm\d\.', name)} == set(encoder)
    assert all(torch.equal(own[name], value) for name, value in encoder.items())
    report = load_pretrained(ConvNeXtV2(ARCH), str(path))
    assert report.layout == 'official'
    assert report.complete
    assert report.licence.startswith('your own')
    inspect(str(path))
    assert 'licence: your own' in capsys.readouterr().out


def test_a_checkpoint_of_the_whole_autoencoder_loads_as_well(trained):
    runner, work_dir = trained
    checkpoint = str(work_dir / 'whole.pth')
    torch.save({'state_dict': runner.model.state_dict()}, checkpoint)
    backbone = ConvNeXtV2(ARCH)
    load_pretrained(backbone, checkpoint)
    encoder = runner.model.encoder.state_dict()
    assert all(torch.equal(backbone.state_dict()[name], v) for name, v in encoder.items())


def test_the_file_says_its_network_and_licence(trained):
    _, work_dir = trained
    with safe_open(work_dir / 'encoder.safetensors', 'pt') as file:
        facts = file.metadata()
    assert facts['network'] == 'ConvNeXtV2 with depths (1, 1, 1, 1) and dims (4, 6, 8, 10)'
    assert facts['licence'] == find(str(work_dir / 'encoder.safetensors')).licence


def test_the_encoder_starts_from_weights_and_inherits_their_licence(trained):
    _, work_dir = trained
    source = str(work_dir / 'encoder.safetensors')
    init_cfg = dict(type='Pretrained', checkpoint=source)
    model = FCMAE(dict(type='ConvNeXtV2', arch=ARCH, init_cfg=init_cfg), decoder_dim=8)
    model.init_weights()
    expected = load_state(source)
    assert all(torch.equal(v, expected[k]) for k, v in model.encoder.state_dict().items())
    assert licence_of(model) == f'{find(source).licence}, inherited from {source}'
    model.encoder.init_cfg = dict(type='Pretrained', checkpoint='convnextv2-atto_fcmae')
    assert licence_of(model).startswith('CC-BY-NC-4.0')


def load_state(path: str) -> dict:
    with safe_open(path, 'pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_weights_of_the_command_line_go_to_the_backbone(trained, capsys):
    _, work_dir = trained
    path = str(work_dir / 'encoder.safetensors')
    row = 'upernet_convnext-atto_shapes'
    cfg = training_config(TrainOptions(row, backbone='convnextv2-atto', weights=path))
    assert cfg.model.backbone.type == 'ConvNeXtV2'
    assert cfg.model.backbone.init_cfg.to_dict() == {'type': 'Pretrained', 'checkpoint': path}
    printed = capsys.readouterr().out
    assert f'weights  {path}\n' in printed
    assert 'in the place of these weights' not in printed
    with pytest.raises(ConfigError, match='--weights is for the backbone alone, --from'):
        training_config(TrainOptions(row, weights=path, start_from=path))


@pytest.mark.parametrize('step', [0, 1, 2])
def test_a_resumed_run_is_the_undisturbed_one(step, trained, shapes, tmp_path):
    data = shapes / 'images' / 'training'
    hook = f"custom_hooks = [dict(type='SignalInPretraining', step={step})]\n"
    with pytest.raises(PreemptedError, match='SIGUSR1 after saving'):
        run(write_config(tmp_path, hook), data, tmp_path / 'run')
    torch.manual_seed(99)
    config = write_config(tmp_path, 'randomness = dict(seed=None)\n')  # the checkpoint has it
    found = final_state(run(config, data, tmp_path / 'run', resume='auto'))
    expected = final_state(trained[0])
    assert found.keys() == expected.keys()
    assert [k for k, v in expected.items() if not torch.equal(found[k], v)] == []


def test_tools_send_each_other_the_other_ones_configs():
    with pytest.raises(ConfigError, match='python tools/pretrain.py'):
        training_config(TrainOptions(str(RECIPE)))
    with pytest.raises(ConfigError, match='must be mmengine'):
        pretraining_config(PretrainOptions('upernet_convnext-atto_shapes'))
