"""Whole checkpoints or none: kills at any moment, full disks, damaged files."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from backbones import WeightsError
from downstream.running import config
from downstream.running.checkpoint import files, writer
from downstream.running.runner import SuiteRunner
from downstream.running.test import evaluate
from tests.conftest import write_tiny_config
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes

LAST = 'iter_15.pth'
LAST_OF_TWO = 'iter_10.pth'


def kill_until_done(work_dir: Path, kills: int, count: int, rng: random.Random) -> int:
    """Start again and again, with one process killed at a random moment; how many were killed."""
    killed = 0
    while True:
        arguments = [{'work_dir': work_dir, 'resume': True}] * count
        running = processes.start(tiny_run, work_dir, arguments)
        if killed < kills:
            # wait for the first sign of training, then for a random moment of it
            before = newest_change(work_dir)
            deadline = time.time() + 60
            while newest_change(work_dir) == before and running[0].is_alive():
                assert time.time() < deadline
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.15))
            victim = rng.choice(running)
            if victim.is_alive():
                victim.kill()
                killed += 1
        # the others notice that one is gone
        for process in running:
            process.join(60)
        codes = [process.exitcode for process in running]
        assert None not in codes
        if list(work_dir.glob('*.pth')):
            assert files.newest_whole(work_dir) is not None
        if not any(codes):
            return killed
        assert -signal.SIGKILL in codes, codes


def newest_change(work_dir: Path) -> int:
    """When a checkpoint came last; the run replaces them while this looks."""
    times = [0]
    for path in work_dir.glob('*.pth'):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def kill_test(tmp_path, kills: int, count: int = 1) -> None:
    last = LAST if count == 1 else LAST_OF_TWO
    kill_until_done(tmp_path / 'whole', 0, count, random.Random(0))
    expected = files.verified(tmp_path / 'whole' / last)
    rng, done, round_ = random.Random(0), 0, 0
    while done < kills:
        round_ += 1
        work_dir = tmp_path / f'killed{round_}'
        work_dir.mkdir()
        killed = kill_until_done(work_dir, min(kills - done, 10), count, rng)
        found = files.verified(work_dir / last)
        for key, value in expected['state_dict'].items():
            assert torch.equal(found['state_dict'][key], value), key
        assert killed
        done += killed


SOME_AND_MORE = [1, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize('times', SOME_AND_MORE)
def test_kills_at_any_moment(times, tmp_path):
    kill_test(tmp_path, int(os.environ.get('CONVNEXT_KILLS', 8 * times)))


@pytest.mark.parametrize('times', SOME_AND_MORE)
def test_kills_of_one_of_two_processes(times, tmp_path):
    kill_test(tmp_path, int(os.environ.get('CONVNEXT_KILLS', 3 * times)), count=2)


def test_old_checkpoints_go_after_the_new_one_is_there(tmp_path, monkeypatch):
    seen = []
    remove = files.remove

    def spying(path):
        if path.is_file():
            named = Path((tmp_path / 'last_checkpoint').read_text())
            assert named != path
            assert named.is_file()
            files.verified(named)
            seen.append(path.name)
        remove(path)

    monkeypatch.setattr(files, 'remove', spying)
    tiny_run(tmp_path, custom_hooks=[])
    assert len(seen) == 14
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == [LAST, f'{LAST}.sha256']


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    folder = tmp_path / 'small'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip('this process may not mount a file system')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


class FillingHook(Hook):
    """Fills the disk up to half of a checkpoint before the one of a step is written."""

    priority = 'VERY_HIGH'

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.step:
            runner.writer.wait()
            former, _ = files.newest_whole(runner.work_dir)
            fill(Path(runner.work_dir), former.stat().st_size // 2)


def fill(folder: Path, left: int = 0) -> None:
    """Leave so many bytes on the disk of a folder."""
    with open(folder / 'ballast', 'wb', buffering=0) as ballast:
        # Not by os.statvfs, which is a few pages off where several cores write.
        with contextlib.suppress(OSError):
            while ballast.write(bytes(4096)):
                pass
        ballast.truncate(max(0, ballast.tell() - left))


def test_a_full_disk_leaves_the_former_one(small_disk):
    """A real one, which fills up while a checkpoint is being written."""
    with pytest.raises(files.SavingError, match='No space left on device.*--resume'):
        tiny_run(small_disk, custom_hooks=[FillingHook(4)], epochs=2)
    former, _ = files.newest_whole(small_disk)
    assert former.name == 'iter_3.pth'
    assert (small_disk / 'last_checkpoint').read_text() == str(former)
    assert not list(small_disk.glob(f'*{files._PARTIAL}'))
    (small_disk / 'ballast').unlink()
    tiny_run(small_disk, resume=True, custom_hooks=[], epochs=2)
    assert files.newest_whole(small_disk)[0].name == 'iter_6.pth'


def test_a_disk_that_is_full_at_the_start(small_disk):
    """Before the first step a run writes its config, and Python does not say into which file."""
    tiny_run(small_disk, custom_hooks=[], epochs=1)
    fill(small_disk)
    with pytest.raises(files.SavingError, match=f'{small_disk}.*No space left.*--resume'):
        tiny_run(small_disk, resume=True, custom_hooks=[], epochs=2)
    (small_disk / 'ballast').unlink()
    tiny_run(small_disk, resume=True, custom_hooks=[], epochs=2)
    assert files.newest_whole(small_disk)[0].name == 'iter_6.pth'


def test_a_disk_that_is_full_while_testing(small_disk, shapes, tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    path = write_tiny_config('segmentation', shapes, tmp_path)
    fill(small_disk)
    options = config.TestOptions(
        str(path), work_dir=str(small_disk), checkpoint=str(tmp_path / 'a.pth')
    )
    with pytest.raises(files.SavingError, match=f'{small_disk}.*No space left.*run the test again'):
        evaluate(options)


class OnDevice(torch.Tensor):
    """Acts as a tensor of a GPU: its content is reached through .cpu() alone."""

    device = torch.device('cuda')

    def cpu(self):
        return torch.Tensor(self.as_subclass(torch.Tensor).clone())


def test_a_checkpoint_is_in_host_memory_and_copied_once(tmp_path):
    """EMAHook puts the averaged weights in, which are on the device."""
    averaged = torch.ones(3).as_subclass(OnDevice)
    here = torch.ones(3)
    for content in (
        writer.on_host({'a': [averaged, here]}),
        writer.snapshot({'a': [averaged, here]}),
    ):
        assert type(content['a'][0]) is torch.Tensor
        assert torch.equal(content['a'][0], here)
    assert writer.on_host({'a': here})['a'].data_ptr() == here.data_ptr()
    assert writer.snapshot({'a': here})['a'].data_ptr() != here.data_ptr()


def test_deterministic_warns_where_a_kernel_is_not(tmp_path):
    """mmengine's raises an error, e.g. in the loss of every segmenter on CUDA."""
    try:
        tiny_run(tmp_path, epochs=1, custom_hooks=[], randomness=dict(deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
        with pytest.warns(UserWarning, match='does not have a deterministic implementation'):
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_a_disk_that_fails_leaves_the_former_one(tmp_path, monkeypatch):
    write = writer.write

    def failing(content, path):
        if 'iter_9' in path.name:
            path.write_bytes(b'half')
            raise OSError(28, 'No space left on device')
        write(content, path)

    monkeypatch.setattr(writer, 'write', failing)
    with pytest.raises(files.SavingError, match='No space left on device.*--resume'):
        tiny_run(tmp_path, custom_hooks=[])
    assert {p.name for p in tmp_path.glob('*iter*')} == {'iter_8.pth', 'iter_8.pth.sha256'}
    path, content = files.newest_whole(tmp_path)
    assert path.name == 'iter_8.pth'
    assert content['meta']['iter'] == 8


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """What is saved is the state of its step, whatever training does meanwhile."""
    write, runners, overtaken = writer.write, [], []

    class KeepingHook(Hook):
        def before_train(self, runner) -> None:
            runners.append(runner)

    def slow(content, path):
        before = runners[0].iter
        time.sleep(0.1)
        overtaken.append(runners[0].iter - before)
        write(content, path)

    slowly = [dict(type='SlowHook'), KeepingHook()]
    expected = tiny_run(tmp_path / 'plain', custom_hooks=[]).model.state_dict()
    at_eight = []

    class NotingHook(Hook):
        def after_train_iter(self, runner, *args, **kwargs) -> None:
            if runner.iter == 7:
                at_eight.append({k: v.clone() for k, v in runner.model.state_dict().items()})

    monkeypatch.setattr(writer, 'write', slow)
    runner = tiny_run(
        tmp_path / 'slow',
        custom_hooks=[*slowly, NotingHook()],
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', interval=4, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1000),
        ),
    )
    assert max(overtaken) > 0
    assert all(torch.equal(v, expected[k]) for k, v in runner.model.state_dict().items())
    saved = files.verified(tmp_path / 'slow' / 'iter_8.pth')['state_dict']
    assert all(torch.equal(v, at_eight[0][k]) for k, v in saved.items())


def test_where_memory_is_short_nothing_is_copied(tmp_path, monkeypatch):
    content = {'state_dict': {'weight': torch.zeros(1000)}}
    copied = writer.snapshot(content)
    assert copied['state_dict']['weight'].data_ptr() != content['state_dict']['weight'].data_ptr()
    monkeypatch.setattr(writer, 'free_memory', lambda: 7999)
    assert writer.snapshot(content) is None
    tiny_run(tmp_path, custom_hooks=[])
    assert files.newest_whole(tmp_path)[0].name == LAST


def test_free_memory_is_that_of_this_machine():
    assert 2**20 < writer.free_memory() < 2**50


def best_run(work_dir, figures: list[float], resume: bool = False, epochs: int = 4) -> SuiteRunner:
    return tiny_run(
        work_dir,
        resume,
        epochs,
        custom_hooks=[],
        val_dataloader=dict(
            dataset=dict(type='NoiseDataset'), sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='ScriptedMetric', figures=figures),
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', interval=1, max_keep_ckpts=1, save_best='auto'
            ),
            logger=dict(type='LoggerHook', interval=1000),
        ),
    )


def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch):
    removed = []
    remove = files.remove

    def spying(path):
        if path.name.startswith('best'):
            assert list(tmp_path.glob('best_mIoU_epoch_3.pth'))  # the better one is there by then
            removed.append(path.name)
        remove(path)

    expected = best_run(tmp_path / 'whole', [1, 2, 3, 1]).model.state_dict()
    monkeypatch.setattr(files, 'remove', spying)
    best_run(tmp_path, [2, 1], epochs=2)
    assert {p.name for p in tmp_path.glob('best*.pth')} == {'best_mIoU_epoch_1.pth'}
    runner = best_run(tmp_path, [3, 1], resume=True)
    assert {p.name for p in tmp_path.glob('best*.pth')} == {'best_mIoU_epoch_3.pth'}
    assert removed == ['best_mIoU_epoch_1.pth']
    content = files.verified(tmp_path / 'best_mIoU_epoch_3.pth')
    assert content['meta']['epoch'] == 3
    assert 'optimizer' not in content
    assert files.newest_whole(tmp_path)[0].name == 'epoch_4.pth'
    assert all(torch.equal(v, expected[k]) for k, v in runner.model.state_dict().items())


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'emptied', 'garbled digest'])
def test_a_damaged_file_is_skipped_for_the_one_before(damage, tmp_path):
    content = {'state_dict': {'weight': torch.zeros(1000)}, 'meta': {'iter': 1}}
    for name in ('iter_1.pth', 'iter_2.pth'):
        torch.save(content, tmp_path / files.unfinished(name))
        files.publish(tmp_path, name)
        time.sleep(0.01)
    newest = tmp_path / 'iter_2.pth'
    data = bytearray(newest.read_bytes())
    if damage == 'cut':
        newest.write_bytes(data[:-100])
    elif damage == 'flipped':
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    elif damage == 'emptied':
        newest.write_bytes(b'')
    else:
        (tmp_path / 'iter_2.pth.sha256').write_text('')
    os.utime(newest)
    path, _ = files.newest_whole(tmp_path)
    assert path.name == 'iter_1.pth'
    with pytest.raises(WeightsError):
        files.verified(newest)


def test_nothing_to_resume_from_is_a_fresh_start(tmp_path):
    assert files.newest_whole(tmp_path) is None
    (tmp_path / files.unfinished('iter_3.pth')).write_bytes(b'half')
    (tmp_path / 'best_mIoU_iter_3.pth').write_bytes(b'not for resuming')
    assert files.newest_whole(tmp_path) is None


def test_another_config_says_what_has_changed(tmp_path, capsys):
    tiny_run(tmp_path, custom_hooks=[], epochs=1)
    tiny_run(tmp_path, resume=True, custom_hooks=[], epochs=2)
    shown = capsys.readouterr().out
    assert 'The config has changed since the checkpoint' in shown
    assert '- max_epochs = 1' in shown
    assert '+ max_epochs = 2' in shown
