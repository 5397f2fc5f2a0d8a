"""A recipe for images of one's own: chosen by their number, printed, written, trained."""

import re
from math import sqrt
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file, save_file

from backbones.errors import ConfigError, WeightsError
from pretraining import FCMAE
from pretraining.by_size import batch_for, epochs_for, rate_for, size_for
from pretraining.own import prepare
from pretraining.train import PretrainOptions, pretraining_config
from tests.support import processes

ARCH = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))


def prepared(folder: Path, data, **options) -> tuple[PretrainOptions, Config]:
    words = PretrainOptions('own', work_dir=str(folder / 'run'), data=(str(data),), **options)
    ready = prepare(words)
    return ready, pretraining_config(ready)


@pytest.fixture
def images(shapes) -> Path:
    return shapes / 'images' / 'training'


@pytest.fixture(scope='module')
def released(tmp_path_factory) -> Path:
    """A tiny autoencoder's file, with its decoder."""
    torch.manual_seed(0)
    state = FCMAE(dict(type='ConvNeXtV2', arch=ARCH), decoder_dim=8).state_dict()
    path = tmp_path_factory.mktemp('released') / 'whole.safetensors'
    save_file({k.removeprefix('encoder.'): v.contiguous() for k, v in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ('count', 'size', 'epochs', 'batch'),
    [
        (5, 'atto', 1600, 5),
        (40, 'atto', 1600, 8),
        (300, 'atto', 1600, 37),
        (9_999, 'atto', 1600, 64),
        (10_000, 'nano', 1600, 64),
        (300_000, 'tiny', 1237, 64),
        (1_281_167, 'base', 800, 64),
    ],
)
def test_the_rule_by_the_number_of_images(count, size, epochs, batch):
    assert size_for(count)[0] == size
    assert epochs_for(count, trained=False).value == epochs
    assert abs(epochs_for(count, trained=True).value - epochs / 3) <= 1
    assert batch_for(count, 1, 64).value == batch


def test_the_rate_follows_the_root_of_the_batch():
    assert rate_for(4096, 2.4e-3, 4096).value == 2.4e-3
    assert rate_for(64, 2.4e-3, 4096).value == pytest.approx(2.4e-3 * sqrt(64 / 4096))
    assert rate_for(64, 2.4e-3, 4096, 0.5).value == 0.5


def test_processes_share_the_batch():
    assert batch_for(1000, 4, 64).value == 124
    assert batch_for(100_000, 4, 64).value == 256
    assert batch_for(9, 4, 64).value == 8
    with pytest.raises(ConfigError, match='3 images are fewer than 4 processes'):
        batch_for(3, 4, 64)
    with pytest.raises(ConfigError, match='--batch-size 6: give a multiple of the 4 processes'):
        batch_for(100, 4, 64, 6)


def test_a_config_is_written_that_says_why(images, tmp_path, capsys):
    ready, cfg = prepared(tmp_path, images, weights='none')
    assert ready.config == str(tmp_path / 'run' / 'run.py')
    count = len(list(images.glob('*.jpg')))
    assert cfg.model.backbone.arch == 'atto'
    assert cfg.model.backbone.init_cfg is None
    assert cfg.train_cfg.max_epochs == 1600
    assert cfg.param_scheduler[0].warm_up == 80
    assert cfg.param_scheduler[0].end == 1600
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == min(8, count)
    expected = 2.4e-3 * sqrt(min(8, count) / 4096)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(expected, rel=1e-2)
    assert cfg.train_dataloader.dataset.sources == [str(images)]
    shown = capsys.readouterr().out
    assert re.search(r'network  ConvNeXt V2, atto, for fewer than 10,000 images', shown)
    assert re.search(r'start  random weights.*Licence: your own', shown)
    assert re.search(r'length  1600 epochs: the most that the paper has', shown)
    text = Path(ready.config).read_text()
    assert '# Length: 1600 epochs (the most that the paper has)' in text
    # Once more, as each process of a run does.
    assert prepared(tmp_path, images, weights='none')[1].to_dict() == cfg.to_dict()


def test_what_the_command_line_says_is_taken(images, tmp_path):
    words = dict(epochs=3, lr=0.5, batch_size=2, image_size=96, weights='none')
    _, cfg = prepared(tmp_path, images, cfg_options={'model.backbone.arch': 'femto'}, **words)
    assert cfg.model.backbone.arch == 'femto'
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_dataloader.dataset.pipeline[1]['size'] == 96


def test_it_starts_from_released_weights_and_inherits_their_licence(
    images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv('CONVNEXT_WEIGHTS', str(tmp_path))
    (tmp_path / 'convnextv2_atto_1k_224_fcmae.pt').write_bytes(b'not read before the run')
    _, cfg = prepared(tmp_path, images)
    assert cfg.model.backbone.init_cfg.to_dict() == {
        'type': 'Pretrained',
        'checkpoint': 'convnextv2-atto_fcmae',
    }
    assert cfg.train_cfg.max_epochs == 533
    shown = capsys.readouterr().out
    assert re.search(r'start  convnextv2-atto_fcmae, .*CC-BY-NC-4.0 - NON-COMMERCIAL', shown)
    assert 'a third of 1600' in shown


def test_without_network_the_way_out_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setenv('CONVNEXT_WEIGHTS', str(tmp_path / 'none'))
    monkeypatch.setenv('CONVNEXT_WEIGHTS_MIRROR', 'http://127.0.0.1:9')
    with pytest.raises(
        WeightsError, match=r'convnextv2-atto_fcmae: cannot download.*--weights none'
    ):
        prepared(tmp_path, images)
    assert not (tmp_path / 'run').exists()


def test_of_a_file_network_and_decoder_are_taken(images, tmp_path, released, capsys):
    _, cfg = prepared(tmp_path, images, weights=str(released))
    assert cfg.model.decoder_dim == 8
    assert dict(cfg.model.backbone.arch) == ARCH
    assert f'that of {released}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(data=()), r'name their folders, --data DIR'),
        (dict(batch_size='auto'), '--batch-size auto is for detectors'),
        (dict(image_size=100), 'cells of 32x32: crop to a multiple of 32 pixels, 96 or 128'),
        (dict(image_size=32), 'shows 0 of the 1 cells'),
        (dict(epochs=0), '--epochs 0: give at least 1'),
        (dict(lr=0), '--lr 0: give a number above 0'),
        (dict(batch_size=99), '--batch-size 99: give a multiple of the 1 processes, at most'),
        (dict(cfg_options={'model.backbone.arch': 'small'}), "no size 'small' to pre-train"),
    ],
)
def test_impossible_words_write_nothing(words, message, images, tmp_path):
    given = {'data': (str(images),), 'weights': 'none', **words}
    with pytest.raises(ConfigError, match=message):
        prepare(PretrainOptions('own', work_dir=str(tmp_path / 'run'), **given))
    assert not (tmp_path / 'run').exists()


def test_a_file_of_v1_is_refused(images, tmp_path):
    state = FCMAE(dict(type='ConvNeXt', arch=ARCH), decoder_dim=8).encoder.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / 'v1.safetensors')
    with pytest.raises(WeightsError, match=r'is ConvNeXt with depths.*own pre-trains ConvNeXt V2'):
        prepared(tmp_path, images, weights=str(tmp_path / 'v1.safetensors'))


def test_from_folder_to_encoder(tool, shapes, tmp_path, released):
    words = ('own', '--data', shapes / 'images', '--work-dir', tmp_path / 'run')
    more = ('--weights', released, '--epochs', 2, '--image-size', 64, '--batch-size', 3)
    result = tool('pretrain', *words, *more)
    assert result.code == 0, result.err
    assert result.out.count(f'{shapes / "images"}: 7 images') == 1
    assert re.search(r'length  2 epochs: given; 4 steps', result.out)
    encoder = load_file(tmp_path / 'run' / 'encoder.safetensors')
    started = load_file(released)
    assert {k for k in started if k in encoder} == set(encoder)
    # What is printed can be done again.
    again = tool('pretrain', tmp_path / 'run' / 'run.py', '--resume')
    assert again.code == 0, again.err
    edited = tmp_path / 'run' / 'run.py'
    edited.write_text(edited.read_text() + '# mine\n')
    refused = tool('pretrain', *words, *more)
    assert refused.code == 2
    assert 'was edited since it was written' in refused.err


@pytest.mark.slow
def test_processes_agree_on_one_config(shapes, tmp_path, released):
    words = ('own', '--data', shapes / 'images', '--work-dir', tmp_path / 'run', '--epochs', 2)
    more = ('--weights', released, '--image-size', 64)
    code, shown = processes.run_tool('pretrain', *words, *more, folder=tmp_path / 'out', count=2)
    assert code == 0, shown
    assert 'batch  6: for 1 step an epoch' in shown
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=False)
    assert checkpoint['meta']['processes'] == 2
    cfg = Config.fromfile(tmp_path / 'run' / 'run.py')
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.auto_scale_lr.base_batch_size == 6


def test_a_run_in_the_current_folder_has_a_config_of_its_name(
    tmp_path, images, released, monkeypatch
):
    folder = tmp_path / 'mine'
    folder.mkdir()
    monkeypatch.chdir(folder)
    prepare(PretrainOptions('own', work_dir='.', data=(str(images),), weights=str(released)))
    assert [path.name for path in folder.iterdir()] == ['mine.py']
