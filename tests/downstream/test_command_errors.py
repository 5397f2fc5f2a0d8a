"""What is one line of error and exit code 2 of a command, whatever the command is."""

import errno

import pytest
import torch

from backbones import ConfigError
from downstream.commands import line
from downstream.running import config
from downstream.running.test import evaluate
from downstream.running.train import train
from tests.conftest import write_tiny_config


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES])
def test_a_place_where_nothing_may_be_written(number, capsys):
    def command():
        raise OSError(number, 'Not here', '/media/disc/runs')

    with pytest.raises(SystemExit) as caught:
        line.run(command)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(
        'error: /media/disc/runs: Not here. Give another place'
    )


def test_other_errors_of_the_system_stay():
    def command():
        raise OSError(errno.EIO, 'Input/output error', '/media/disc/runs')

    with pytest.raises(OSError, match='Input/output'):
        line.run(command)


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError(
            'class `Albu` in mmdet/transforms.py: RuntimeError: albumentations is not installed'
        ),
        ImportError(
            'Please run "pip install instaboostfast" to\n    install instaboostfast first.'
        ),
        ModuleNotFoundError("No module named 'albumentations'", name='albumentations'),
    ],
)
def test_a_package_that_is_not_installed(error, capsys):
    def command():
        raise error

    with pytest.raises(SystemExit) as caught:
        line.run(command)
    assert caught.value.code == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert text.startswith(('error: albumentations', 'error: Please run', 'error: No module'))
    assert text.endswith('. Install it, or take a config that does without it.')


@pytest.mark.parametrize(
    'error',
    [
        ModuleNotFoundError("No module named 'downstream.gone'", name='downstream.gone'),
        RuntimeError('mat1 and mat2 shapes cannot be multiplied'),
        ImportError("cannot import name 'a' from 'b'"),
    ],
)
def test_errors_of_programs_keep_their_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)):
        line.run(command)


@pytest.mark.parametrize(('local', 'says'), [('0', True), ('1', False)])
def test_a_fault_of_a_machine_is_said_once_on_each(local, says, monkeypatch, capsys):
    monkeypatch.setenv('RANK', '9')
    monkeypatch.setenv('LOCAL_RANK', local)

    def command():
        raise OSError(errno.EROFS, 'Read-only file system', '/runs')

    with pytest.raises(SystemExit):
        line.run(command)
    assert capsys.readouterr().err.startswith('error: rank 9: /runs: Read-only') == says


def test_a_work_dir_that_cannot_be_is_refused_before_the_data_are_read(shapes, tmp_path):
    path = str(write_tiny_config('segmentation', shapes, tmp_path))
    checkpoint = tmp_path / 'file'
    torch.save({'state_dict': {'weight': torch.zeros(1)}}, checkpoint)
    work_dir = str(tmp_path / 'file' / 'run')
    with pytest.raises(ConfigError, match=r'file is a file; give a folder'):
        train(config.TrainOptions(path, work_dir=work_dir))
    with pytest.raises(ConfigError, match=r'file is a file; give a folder'):
        evaluate(config.TestOptions(path, checkpoint=str(checkpoint), work_dir=work_dir))


def test_a_misspelt_argument_of_a_model_is_one_sentence(shapes, tmp_path):
    path = write_tiny_config('segmentation', shapes, tmp_path)
    path.write_text(path.read_text() + "model.setdefault('decode_head', {})['channnels'] = 4\n")
    with pytest.raises(ConfigError, match=r"model of the config: .*argument 'channnels'\."):
        train(config.TrainOptions(str(path), work_dir=str(tmp_path / 'run')), check_data='no')
