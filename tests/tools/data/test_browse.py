"""tools/browse.py draws what a model would see, before any training."""

import cv2
import pytest

from tests.conftest import EXAMPLES, write_tiny_config


@pytest.mark.parametrize('task', EXAMPLES)
@pytest.mark.parametrize('part', ['train', 'val'])
def test_samples_are_drawn(task, part, shapes, tool, tmp_path):
    config = write_tiny_config(task, shapes, tmp_path)
    words = ('browse', config, f'--{part}', '--n', 3, '--work-dir', tmp_path / 'work')
    result = tool(*words)
    assert result.code == 0, result.err
    pictures = sorted((tmp_path / 'work' / f'browse_{part}').iterdir())
    assert len(pictures) == 3
    assert f'3 pictures in {pictures[0].parent}' in result.out
    images = [cv2.imread(str(path)) for path in pictures]
    assert all(image.std() > 5 for image in images)
    again = tool(*words, '--out', tmp_path / 'again')
    assert again.code == 0, again.err
    for path in pictures:
        assert path.read_bytes() == (tmp_path / 'again' / path.name).read_bytes()


def test_bad_input_is_one_line(shapes, tool, tmp_path):
    config = write_tiny_config('segmentation', shapes, tmp_path)
    for words, message in (
        (('--n', 0), 'at least one picture'),
        (('--cfg-options', 'test_dataloader=None', '--test'), 'has no test_dataloader'),
        (
            ('--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
            'the folder nowhere (data_root) does not exist',
        ),
    ):
        result = tool('browse', config, *words)
        assert result.code == 2, result.out
        assert message in result.err
        assert 'Traceback' not in result.err
