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
