"""tools/compare.py: backbones are trained, tested and put into a table; nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from downstream.comparing import children
from downstream.comparing.words import Command
from tests.conftest import ROOT, write_tiny_config
from tests.support import processes

TWO = ('convnext-atto', 'timm:test_efficientnet')
BROKEN = """
import backbones
class Broken(backbones.ConvNeXt):
    def __init__(self, **kwargs):
        super().__init__('atto', **kwargs)
    def forward(self, x):
        if self.training:
            raise ValueError('this one cannot be trained')
        return super().forward(x)
"""


class Forked:
    """A tool in a forked process that has imported everything, in the place of one that has not."""

    def __init__(self, command: Command, log: object, lock: int) -> None:
        script = Path(command.words[1])
        folder = Path(command.words[command.words.index('--work-dir') + 1]) / 'forked'
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = {'name': script.stem, 'words': list(command.words[2:]), 'cwd': Path.cwd()}
        (self.child,) = processes.start(processes.call_tool, folder, [words])
        self.args = command.words

    def poll(self) -> int | None:
        return self.returncode

    @property
    def returncode(self) -> int | None:
        return self.child.exitcode


@pytest.fixture
def here(tmp_path, monkeypatch, shapes) -> Path:
    """A folder to start from, with a short config for each task."""
    monkeypatch.chdir(tmp_path)
    for task in ('detection', 'segmentation'):
        write_tiny_config(task, shapes, tmp_path)
    return tmp_path


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob('*') if path.suffix in ('.pth', '.log')}


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_backbones_become_a_table_and_the_second_call_repeats_nothing(
    task, tool, here, monkeypatch
):
    started = []

    def start(*args) -> Forked:
        started.append(args[0])
        return Forked(*args)

    monkeypatch.setattr(children, 'start', start)
    call = ('compare', f'{task}.py', '--backbones', *TWO, '--work-dir', 'many')
    ended = tool(*call)
    assert ended.code == 0, ended.out + ended.err
    assert '2 runs in many: 2 backbones' in ended.out
    for backbone in TWO:
        assert f'{backbone}, seed 0: ' in ended.out
    left = 'cost.png', 'cost.svg', 'page.html', 'table.csv', 'table.json', 'table.md', 'table.tex'
    for name in left:
        assert Path('many', name).stat().st_size > 100
    assert len(started) == 4
    content = json.loads(Path('many/table.json').read_text())
    for row, run in zip(content['rows'], content['runs'], strict=True):
        report = json.loads(Path('many', run['metrics']).read_text())
        metrics = report['metrics']
        if task == 'segmentation':
            expected = {'mIoU': metrics['mIoU']}
        else:
            expected = {
                'box AP': 100 * metrics['bbox']['AP'],
                'mask AP': 100 * metrics['segm']['AP'],
            }
        assert {k: v['values'][0] for k, v in row['figures'].items()} == pytest.approx(expected)
        assert row['step_seconds'] > 0
        assert row['images_per_second'] > 0
        # what was trained is the backbone that the row names
        config = json.loads(Path('many', run['folder'], 'run.json').read_text())['identity'][
            'config'
        ]
        assert report['checkpoint'].startswith(f'many/{run["folder"]}/')
        assert ('arch' if 'convnext' in row['backbone'] else 'model') in {
            key.removeprefix('model.backbone.') for key in config
        }

    before = files(here)
    again = tool(*call)
    assert again.code == 0
    assert '2 are done' in again.out
    assert len(started) == 4
    assert files(here) == before
    # another seed trains that one alone
    more = tool(*call, '--seeds', '2', '--dry-run')
    assert more.out.count(': done') == 2
    assert more.out.count('train.py') == 2
    # a test of other data is not put beside the first
    path = Path('many', content['runs'][1]['metrics'])
    report = json.loads(path.read_text())
    report['data'] |= {'images': 99, 'digest': 'x'}
    path.write_text(json.dumps(report))
    mixed = tool(*call)
    assert mixed.code == 2
    assert 'cannot be compared: 3 images and 99' in mixed.err


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['--backbones', 'convnext-ato'], "backbone 'convnext-ato': there is none of this name."),
        (['--backbones', 'convnext-atto', '--boxes'], '--boxes goes with --data.'),
        (['--backbones', 'convnext-atto', '--data', 'nowhere'], 'nowhere'),
        (['--backbones', 'convnext-atto', '--seeds', '0'], '--seeds 0: give at least 1.'),
    ],
)
def test_bad_input_is_one_line(tool, here, words, error):
    ended = tool('compare', 'segmentation.py', *words, '--work-dir', 'many')
    assert ended.code == 2
    assert ended.err.startswith('error: ')
    assert error in ended.err
    assert ended.err.count('\n') == 1
    assert not Path('many').exists()


def compare(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tools' / 'compare.py'), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_runs_of_two_processes_each(here):
    call = (
        *('segmentation.py', '--backbones', *TWO, '--work-dir', 'many'),
        *('--launcher', 'pytorch', '--gpus', '2', '--keep-batch'),
    )
    process = compare(*call)
    shown, _ = process.communicate(timeout=600)
    assert process.returncode == 0, shown
    content = json.loads(Path('many/table.json').read_text())
    assert [row['done'] for row in content['rows']] == [1, 1]
    for run in content['runs']:
        report = json.loads(Path('many', run['metrics']).read_text())
        assert 0 <= report['metrics']['mIoU'] <= 100
        assert 'dist_train.sh' in Path('many', run['folder'], 'output.log').read_text()
    again = compare(*call)
    shown, _ = again.communicate(timeout=60)
    assert again.returncode == 0, shown
    assert 'trains' not in shown


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_repeats_nothing(here, number):
    """Processes of their own, two at a time, among them a backbone that fails."""
    (here / 'broken.py').write_text(BROKEN)
    call = (
        *('segmentation.py', '--backbones', *TWO, 'broken:Broken', '--seeds', '2', '--jobs', '2'),
        *(
            '--work-dir',
            'many',
            '--cfg-options',
            'train_cfg.max_iters=6',
            'train_cfg.val_interval=6',
        ),
    )
    process = compare(*call)
    second = here / 'many/timm-test_efficientnet/seed0'
    wait_for(second / 'iter_1.pth', process)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL), shown
    deadline = time.monotonic() + 60
    while True:  # those that were left behind save and leave
        again = compare(*call)
        shown, _ = again.communicate(timeout=600)
        if 'another comparison is at work' not in shown or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert again.returncode == 1, shown
    assert '2 of 6 runs failed:' in shown
    assert 'broken:Broken, seed 1: training ended with exit code 1: ' in shown
    assert 'this one cannot be trained' in shown
    content = json.loads((here / 'many/table.json').read_text())
    assert [row['done'] for row in content['rows']] == [2, 2, 0]
    # It went on from the checkpoint, not from the start.
    logs = sorted(second.glob('*/vis_data/scalars.json'))
    steps = [json.loads(line)['step'] for path in logs for line in path.open() if 'loss' in line]
    assert len(steps) == len(set(steps)), steps
    text = (second / 'output.log').read_text()
    assert text.count('tools/train.py') <= 2
    before = files(here / 'many/convnext-atto')
    last = compare(*call)
    shown, _ = last.communicate(timeout=300)
    assert '4 are done' in shown
    assert files(here / 'many/convnext-atto') == before
