"""The processes of a comparison: failures, stops, what is not repeated. Shell scripts train here."""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backbones.errors import ConfigError
from downstream.comparing import children, words
from downstream.comparing.children import Children, locked
from downstream.comparing.plan import CompareOptions, Plan
from downstream.comparing.progress import Progress, duration
from downstream.comparing.state import Run
from downstream.comparing.words import Command, Commands
from downstream.running.config import TrainOptions

TRAINS = """
echo "train $NAME" >> ../../calls
mkdir -p time
touch epoch_1.pth config.py
echo elsewhere/epoch_1.pth > last_checkpoint
"""
TESTS = """
echo "test $NAME" >> ../../calls
mkdir -p time
echo '{"task": "segmentation", "metrics": {"mIoU": 50.0}}' > time/metrics.json
"""
# It saves when it is asked to leave, as training does.
WAITS = """
trap 'echo x > last_checkpoint; touch x; exit 75' TERM
echo "begin $NAME" >> ../../calls
while true; do sleep 0.05; done
"""


class Scripts:
    """Commands that run shell scripts in the folder of a run.

    Args:
        train: Script of a backbone's training.
        test: Of its test.
    """

    def __init__(self, train: Callable[[Run], str], test: Callable[[Run], str]) -> None:
        self.scripts = {'train': train, 'test': test}

    def train(self, run: Run, slot: int) -> Command:
        return self._command('train', run)

    def test(self, run: Run, slot: int) -> Command:
        return self._command('test', run)

    def _command(self, stage: str, run: Run) -> Command:
        script = f'cd {run.folder}\n{self.scripts[stage](run)}'
        return Command(('bash', '-c', script), {'NAME': run.name})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(children, '_POLL', 0.02)


def runs_in(folder: Path, names: str = 'abc', recipe: int = 1) -> list[Run]:
    runs = [
        Run(name, 0, folder / name / 'seed0', {'backbone': name, 'config': {'lr': recipe}})
        for name in names
    ]
    for run in runs:
        run.read()
    return runs


def finish(
    folder: Path,
    runs: list[Run],
    jobs: int = 1,
    train: Callable[[Run], str] = lambda run: TRAINS,
    test: Callable[[Run], str] = lambda run: TESTS,
) -> Children:
    with locked(folder) as lock:
        going = Children(Scripts(train, test), jobs, lock, Progress(runs, jobs))
        going.finish([run for run in runs if not run.done])
    return going


def calls(folder: Path) -> list[str]:
    return (folder / 'calls').read_text().splitlines()


def test_runs_are_trained_and_tested_and_never_again(tmp_path, capsys):
    finish(tmp_path, runs_in(tmp_path))
    expected = [f'{stage} {name}, seed 0' for name in 'abc' for stage in ('train', 'test')]
    assert calls(tmp_path) == expected
    again = runs_in(tmp_path)
    assert all(run.done for run in again)
    assert again[0].checkpoint == tmp_path / 'a/seed0/epoch_1.pth'
    finish(tmp_path, again)
    assert calls(tmp_path) == expected
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith('[1/3] a, seed 0: trains, output in ')
    assert shown[1].startswith('[1/3] a, seed 0: mIoU 50.00, ')
    assert shown[1].endswith(' left')


def test_one_that_fails_is_named_and_does_not_end_the_others(tmp_path, capsys):
    def train(run: Run) -> str:
        return (
            'echo noise\necho "error: no such thing" >&2; exit 2' if run.backbone == 'a' else TRAINS
        )

    def test(run: Run) -> str:
        return 'kill -9 $$' if run.backbone == 'b' else TESTS

    runs = runs_in(tmp_path)
    finish(tmp_path, runs, train=train, test=test)
    assert runs[0].failure == 'training ended with exit code 2: no such thing'
    assert runs[1].failure.startswith('testing ended with signal 9: ')
    assert runs[2].done
    assert 'no such thing' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a/seed0/run.json').read_text())['failure'] == runs[0].failure
    # The same again: what was trained is tested alone.
    (tmp_path / 'calls').unlink()
    finish(tmp_path, runs_in(tmp_path))
    assert calls(tmp_path) == ['train a, seed 0', 'test a, seed 0', 'test b, seed 0']


def test_a_training_that_leaves_nothing_has_failed(tmp_path):
    runs = runs_in(tmp_path, 'ab')
    finish(
        tmp_path,
        runs,
        train=lambda run: TRAINS if run.backbone == 'b' else 'true',
        test=lambda r: 'true',
    )
    assert 'has left no checkpoint' in runs[0].failure
    assert 'has left no metrics.json' in runs[1].failure


def test_so_many_go_on_at_a_time(tmp_path):
    meet = """
touch ../../$$.here
for i in $(seq 200); do
    [ $(ls ../../*.here | wc -l) = 2 ] && break
    sleep 0.05
done
[ $i != 200 ] || exit 1
"""
    runs = runs_in(tmp_path, 'ab')
    finish(tmp_path, runs, jobs=2, train=lambda run: meet + TRAINS)
    assert all(run.done for run in runs)
    assert [run.jobs for run in runs_in(tmp_path, 'ab')] == [2, 2]


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], bool], int], None]]:
    """Sends this process a signal once a condition holds."""
    threads = []

    def send(condition: Callable[[], bool], number: int) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 20
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(os.getpid(), number)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield send
    for thread in threads:
        thread.join()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_on_a_signal_runs_save_and_leave_and_the_same_command_continues(tmp_path, later, number):
    runs = runs_in(tmp_path)
    later(lambda: (tmp_path / 'calls').is_file() and 'begin b, seed 0' in calls(tmp_path), number)
    train = lambda run: WAITS if run.backbone == 'b' else TRAINS  # noqa: E731
    going = finish(tmp_path, runs, train=train)
    assert going.stopped_by == number
    assert 'begin c, seed 0' not in calls(tmp_path)
    assert runs[1].failure == 'stopped while training; the same command continues it'
    again = runs_in(tmp_path)
    assert [run.done for run in again] == [True, False, False]
    assert [run.started for run in again] == [True, True, False]
    (tmp_path / 'calls').unlink()
    finish(tmp_path, again)
    assert calls(tmp_path)[:2] == ['train b, seed 0', 'test b, seed 0']


def test_a_second_signal_kills(tmp_path, later):
    deaf = WAITS.replace("trap '", "trap 'true' TERM\n#")
    runs = runs_in(tmp_path, 'a')
    began = lambda: (tmp_path / 'calls').is_file()  # noqa: E731
    later(began, signal.SIGTERM)
    second = time.monotonic() + 1.5
    later(lambda: began() and time.monotonic() > second, signal.SIGTERM)
    finish(tmp_path, runs, train=lambda run: deaf)
    assert not runs[0].done


def test_a_folder_is_for_one_comparison_at_a_time(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match='another comparison is at work'),
        locked(tmp_path),
    ):
        pass
    # A run that was left behind holds it too.
    with locked(tmp_path) as lock:
        left = subprocess.Popen(['sleep', '30'], pass_fds=(lock,))
    try:
        with pytest.raises(ConfigError, match='one left behind'), locked(tmp_path):
            pass
    finally:
        left.kill()
        left.wait()
    with locked(tmp_path):
        pass


def test_another_recipe_in_the_folder_is_refused(tmp_path):
    finish(tmp_path, runs_in(tmp_path, 'a'))
    with pytest.raises(
        ConfigError, match=r'a/seed0 holds a run of something else \(lr was 1, is 2\)'
    ):
        runs_in(tmp_path, 'a', recipe=2)


def test_a_foreign_training_is_not_taken_over(tmp_path):
    folder = tmp_path / 'a' / 'seed0'
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').write_text('epoch_3.pth')
    with pytest.raises(ConfigError, match='no comparison has started'):
        runs_in(tmp_path, 'a')


@pytest.mark.parametrize('text', ['{"dig', '[1]'])
def test_a_damaged_record_is_one_line(tmp_path, text):
    folder = tmp_path / 'a' / 'seed0'
    folder.mkdir(parents=True)
    (folder / 'run.json').write_text(text)
    with pytest.raises(ConfigError, match='run.json'):
        runs_in(tmp_path, 'a')


def test_results_that_were_deleted_are_made_again(tmp_path):
    finish(tmp_path, runs_in(tmp_path, 'a'))
    (tmp_path / 'a/seed0/time/metrics.json').unlink()
    (run,) = runs_in(tmp_path, 'a')
    assert not run.done
    assert run.checkpoint
    (tmp_path / 'a/seed0/epoch_1.pth').unlink()
    assert runs_in(tmp_path, 'a')[0].checkpoint is None


def test_durations():
    assert [duration(s) for s in (5, 99, 1080, 11100)] == ['5 s', '99 s', '18 min', '3 h 5 min']


def commands(folder: Path, **options) -> Commands:
    recipe = TrainOptions('recipe', epochs=3, lr=1e-4, amp='bf16', keep_batch=True, bands=(3, 2, 1))
    made = Plan('detection', recipe, folder, (), ())
    return Commands(made, CompareOptions(recipe, ('a',), cfg_words=('x.y=1',), **options))


def test_commands_have_the_words_of_the_command_line(tmp_path):
    run = Run('timm:x', 4, tmp_path / 'timm-x/seed4', {'config': {'train_cfg.max_iters': 7}})
    made = commands(tmp_path)
    train = made.train(run, 0).words
    assert (
        list(train[2:])
        == (
            f'recipe --work-dir {run.folder} --backbone timm:x --epochs 3 --lr 0.0001 --amp bf16 '
            '--keep-batch --bands 3 2 1 --check-data no --cfg-options x.y=1 randomness.seed=4'
        ).split()
    )
    assert (
        list(made.test(run, 0).words[2:])
        == (f'{run.folder}/recipe.py {run.folder}/iter_7.pth --work-dir {run.folder}').split()
    )
    run.folder.mkdir(parents=True)
    (run.folder / 'last_checkpoint').write_text('x')
    assert '--resume' in made.train(run, 0).words


def test_launchers(tmp_path):
    run = Run('a', 0, tmp_path / 'a/seed0', {'config': {'train_cfg.max_epochs': 7}})
    pytorch = commands(tmp_path, launcher='pytorch', gpus=4).train(run, 0)
    assert pytorch.words[0] == 'bash'
    assert pytorch.words[1].endswith('tools/dist_train.sh')
    assert pytorch.words[2:4] == ('recipe', '4')
    slurm = commands(tmp_path, launcher='slurm', gpus=16, partition='big')
    assert slurm.train(run, 0).words[2:6] == ('big', 'train-a-0', 'recipe', str(run.folder))
    assert slurm.train(run, 0).environment['GPUS'] == '16'
    assert '--work-dir' not in slurm.train(run, 0).words
    tested = slurm.test(run, 0).words
    assert tested[1].endswith('tools/slurm_test.sh')
    assert tested[4:] == (
        f'{run.folder}/recipe.py', f'{run.folder}/epoch_7.pth', '--work-dir', str(run.folder)
    )  # fmt: skip


def test_runs_at_a_time_share_the_machine(tmp_path, monkeypatch):
    run = Run('a', 0, tmp_path / 'a/seed0', {'config': {}})
    monkeypatch.setattr(words.os, 'cpu_count', lambda: 8)
    monkeypatch.setattr(words.torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert commands(tmp_path, jobs=3).train(run, 0).environment == {'OMP_NUM_THREADS': '2'}
    monkeypatch.setattr(words.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,3,5,7')
    two = commands(tmp_path, jobs=2, gpus=2, launcher='pytorch')
    devices = [two.train(run, slot).environment['CUDA_VISIBLE_DEVICES'] for slot in (0, 1)]
    assert devices == ['2,3', '5,7']
    with pytest.raises(ConfigError, match='need 6 GPUs; there are 4'):
        commands(tmp_path, jobs=3, gpus=2, launcher='pytorch')


def test_a_command_can_be_pasted():
    command = Command(('python', 'a b', "it's", 'model.x=[1,2]'), {'X': '1 2'})
    assert shlex.split(str(command)) == ['X=1 2', *command.words]
    assert str(command).startswith("X='1 2' python 'a b' ")
