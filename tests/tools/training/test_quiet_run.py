"""What a newcomer sees of a run is what concerns him."""

import logging
import subprocess
import sys
import warnings
from contextlib import suppress

from mmengine.logging import MMLogger, print_log

from downstream.quiet import (
    KNOWN_WARNINGS,
    ignore_known_warnings,
    without_coco_output,
    without_log,
)
from tests.conftest import EXAMPLES, ROOT, write_tiny_config

# For each task a training, with its validation, and a test with pictures, in one process: starting
# takes longest.
SCRIPT = """
import glob, runpy, sys
folder, *configs = sys.argv[1:]
for config in configs:
    work_dir = f'{config}.run'
    sys.argv = ['tools/train.py', config, '--work-dir', work_dir]
    runpy.run_path('tools/train.py', run_name='__main__')
    (checkpoint,) = glob.glob(f'{work_dir}/epoch_1.pth') + glob.glob(f'{work_dir}/iter_2.pth')
    sys.argv = ['tools/test.py', config, checkpoint, '--work-dir', folder, '--show-dir', folder]
    runpy.run_path('tools/test.py', run_name='__main__')
"""
NOISE = ('warning', 'annotations into memory', 'creating index', 'could not import', 'deprecated')


def test_a_run_prints_nothing_that_nobody_can_act_on(shapes, tmp_path):
    configs = [str(write_tiny_config(task, shapes, tmp_path)) for task in EXAMPLES]
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(tmp_path), *configs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    noise = [line for line in result.stdout.splitlines() if any(n in line.lower() for n in NOISE)]
    # A user can act on these; two steps are no schedule.
    assert [line for line in noise if 'or change param_scheduler' not in line] == []
    assert result.stdout.count('Metrics: ') == len(EXAMPLES)
    for metric in ('bbox_mAP', 'mIoU'):
        assert any('(val)' in line and metric in line for line in result.stdout.splitlines())


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


def test_warnings_are_logged_and_the_rest_again_after_an_error(monkeypatch):
    said = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handle', lambda record: said.append(record.msg))
    level = logger.level
    with suppress(ValueError), without_log():
        print_log('left out', 'current')
        print_log('a warning', 'current', logging.WARNING)
        raise ValueError
    print_log('after it', 'current')
    assert said == ['a warning', 'after it']
    assert logger.level == level
