"""What a run starts from: the newest intact checkpoint, read once, the same on all processes."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from backbones import WeightsError
from downstream.running.checkpoint import files
from downstream.running.resume.start import Start, agree_on_start
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes


def save(folder: Path, name: str, iteration: int) -> Path:
    content = {'state_dict': {'weight': torch.zeros(1000)}, 'meta': {'iter': iteration, 'seed': 5}}
    torch.save(content, folder / files.unfinished(name))
    files.publish(folder, name)
    return folder / name


def flip_a_weight(path: Path) -> None:
    """Damage that only the digest shows."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def test_the_newest_is_the_one_of_the_latest_iteration(tmp_path):
    """Whatever a copy of the work dir has made of the times."""
    for age, (name, iteration) in enumerate(
        [('epoch_10.pth', 100), ('interrupted.pth', 97), ('epoch_9.pth', 90)]
    ):
        os.utime(save(tmp_path, name, iteration), (age, age))
    assert files.newest_whole(tmp_path)[0].name == 'epoch_10.pth'
    flip_a_weight(tmp_path / 'epoch_10.pth')
    assert files.newest_whole(tmp_path)[0].name == 'interrupted.pth'
    # of the same iteration it is the younger one
    os.utime(save(tmp_path, 'iter_97.pth', 97), (9, 9))
    assert files.newest_whole(tmp_path)[0].name == 'iter_97.pth'


@pytest.mark.parametrize('resume', ['auto', True])
def test_where_every_checkpoint_is_damaged_training_starts_anew(resume, tmp_path, capsys):
    """last_checkpoint names a damaged file, which mmengine would follow."""
    tiny_run(tmp_path / 'run', custom_hooks=[], epochs=1)
    expected = files.verified(tmp_path / 'run' / 'iter_3.pth')['state_dict']
    flip_a_weight(tmp_path / 'run' / 'iter_3.pth')
    assert (tmp_path / 'run' / 'last_checkpoint').read_text().endswith('iter_3.pth')
    runner = tiny_run(tmp_path / 'run', request=resume, custom_hooks=[], epochs=1)
    shown = capsys.readouterr().out
    assert 'Skipping a damaged checkpoint' in shown
    assert 'has no intact checkpoint; training starts from iteration 0' in shown
    assert runner.iter == 3
    found = files.verified(tmp_path / 'run' / 'iter_3.pth')['state_dict']
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_start_takes_the_seed_of_the_checkpoint(tmp_path):
    path = save(tmp_path, 'iter_3.pth', 3)
    assert agree_on_start(tmp_path, 'auto', 'old.pth', 1) == Start(str(path), True, 5)
    assert agree_on_start(tmp_path, True, str(path), None) == Start(str(path), True, 5)
    assert agree_on_start(tmp_path, False, str(path), 1) == Start(str(path), False, 1)
    # nothing there: weights to start from are still wanted
    assert agree_on_start(tmp_path / 'empty', 'auto', 'old.pth', 1) == Start('old.pth', False, 1)


def test_a_damaged_checkpoint_that_was_named_is_an_error(tmp_path):
    path = save(tmp_path, 'iter_3.pth', 3)
    flip_a_weight(path)
    with pytest.raises(WeightsError, match='iter_3.pth is damaged'):
        agree_on_start(tmp_path, True, str(path), None)


def counting_run(folder: Path, **changes) -> None:
    """A run that leaves which files it has hashed, and which it has read in full."""
    seen, sha256, load = [], files.sha256, torch.load

    def spy_sha256(path):
        seen.append(f'hash {path.name}')
        return sha256(path)

    def spy_load(path, *args, mmap=False, **kwargs):
        if isinstance(path, Path):
            seen.append(f'{"map" if mmap else "read"} {path.name}')
        return load(path, *args, mmap=mmap, **kwargs)

    files.sha256, torch.load = spy_sha256, spy_load
    tiny_run(folder / 'run', default_hooks={'checkpoint': None}, custom_hooks=[], **changes)
    (folder / f'seen{os.environ["RANK"]}').write_text('\n'.join(seen))


def test_the_first_process_alone_hashes_and_nobody_reads_twice(tmp_path):
    tiny_run(tmp_path / 'run', custom_hooks=[], epochs=1)
    shutil.copy(tmp_path / 'run' / 'iter_3.pth', tmp_path / 'run' / 'iter_2.pth')
    os.utime(tmp_path / 'run' / 'iter_2.pth', (0, 0))
    arguments = [{'folder': tmp_path, 'request': 'auto', 'epochs': 2}] * 2
    for process in processes.start(counting_run, tmp_path, arguments):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    seen = [(tmp_path / f'seen{rank}').read_text().splitlines() for rank in range(2)]
    assert [line for line in seen[0] if line.startswith('hash')] == ['hash iter_3.pth']
    # To compare with the first process's, and to load it.
    assert seen[1] == ['map iter_3.pth'] * 2
    assert not [line for line in seen[0] if line.startswith('read')]


def run_without_the_file(folder: Path, **changes) -> None:
    os.chdir(folder / os.environ['RANK'])
    tiny_run('run', resume=True, custom_hooks=[], **changes)


def test_a_process_that_lacks_the_checkpoint_is_named_by_all(tmp_path):
    tiny_run(tmp_path / '0' / 'run', custom_hooks=[], epochs=1)
    (tmp_path / '1').mkdir()
    arguments = [{'folder': tmp_path, 'epochs': 2}] * 2
    for process in processes.start(run_without_the_file, tmp_path, arguments):
        process.join(60)
        assert process.exitcode == 2
    for rank in '01':
        shown = (tmp_path / f'out{rank}').read_text()
        assert 'would go on from different checkpoints: rank 0' in shown
        assert 'checkpoint run/iter_3.pth does not exist' in shown
