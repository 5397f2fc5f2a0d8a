"""What a newcomer sees of a run is what concerns him."""

import subprocess
import sys
import warnings

import pytest

from downstream.quiet import KNOWN_WARNINGS, ignore_known_warnings, without_coco_output
from tests.conftest import ROOT, write_tiny_config

# Training, with its validation, and a test with pictures, in one process: starting takes longest.
SCRIPT = """
import glob, runpy, sys
config, folder = sys.argv[1:]
sys.argv = ['tools/train.py', config, '--work-dir', folder + '/train']
runpy.run_path('tools/train.py', run_name='__main__')
(checkpoint,) = glob.glob(folder + '/train/epoch_1.pth') + glob.glob(folder + '/train/iter_2.pth')
sys.argv = ['tools/test.py', config, checkpoint, '--work-dir', folder + '/test', '--show-dir', folder]
runpy.run_path('tools/test.py', run_name='__main__')
"""
NOISE = ('warning', 'annotations into memory', 'creating index', 'could not import', 'deprecated')


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_run_prints_nothing_that_nobody_can_act_on(task, shapes, tmp_path):
    config = write_tiny_config(task, shapes, tmp_path)
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(config), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    noise = [line for line in result.stdout.splitlines() if any(n in line.lower() for n in NOISE)]
    assert noise == []
    assert '(val)' in result.stdout
    assert 'Metrics: ' in result.stdout


def test_only_the_known_warnings_are_left_out():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        ignore_known_warnings()
        for known in KNOWN_WARNINGS:
            module = known.module.replace('\\', '')
            text = known.message.replace('\\', '').replace('(bbox|polygon)', 'bbox')
            warnings.warn_explicit(text, UserWarning, 'a.py', 1, module, {})
            assert caught == []
            warnings.warn_explicit('another one', UserWarning, 'a.py', 1, module, {})
            warnings.warn_explicit(text, UserWarning, 'a.py', 1, 'elsewhere', {})
            assert len(caught) == 2
            caught.clear()


def test_other_lines_are_printed(capsys):
    with without_coco_output():
        print('loading annotations into memory...')
        print('Done (t=0.01s)')
        print('a file is missing')
        print('creating index...')
    assert capsys.readouterr().out == 'a file is missing\n'
