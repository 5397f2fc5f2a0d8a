"""What appears under its name is complete."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from backbones.errors import ConfigError
from downstream.atomic import atomic, atomic_files, atomic_path, require_folder


@pytest.mark.parametrize('flush', [False, True])
def test_a_file_appears_when_it_is_complete(flush, tmp_path):
    path = tmp_path / 'new' / 'folder' / 'x.csv'
    with atomic(path, flush=flush) as file:
        file.write('ü\n')
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == 'ü\n'.encode()
    assert list(path.parent.iterdir()) == [path]
    with atomic(path, 'wb') as file:
        file.write(b'\x00')
    assert path.read_bytes() == b'\x00'


def test_an_error_leaves_the_former_file_alone(tmp_path):
    path = tmp_path / 'x.txt'
    path.write_text('former')

    def fail() -> None:
        with atomic(path) as file:
            file.write('half')
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == 'former'
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_rights_of_any_new_file(tmp_path):
    former = os.umask(0o027)
    try:
        with atomic(tmp_path / 'x') as file:
            file.write('x')
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / 'x').stat().st_mode) == 0o640


def test_folders_appear_and_vanish_whole(tmp_path):
    path = tmp_path / 'set'
    with atomic_path(path) as aside:
        (aside / 'images').mkdir(parents=True)
        (aside / 'images' / 'a').touch()
        assert not path.exists()
    assert [one.name for one in (path / 'images').iterdir()] == ['a']

    def make(name: str, error: type[Exception] | None = None) -> None:
        with atomic_path(tmp_path / name) as aside:
            (aside / 'b').mkdir(parents=True)
            if error is not None:
                raise error

    with pytest.raises(KeyError):
        make('other', KeyError)
    # Something has taken the name meanwhile: it stays, and nothing else does.
    with pytest.raises(OSError, match='not empty'):
        make('set')
    assert list(tmp_path.iterdir()) == [path]
    assert [one.name for one in path.iterdir()] == ['images']


def write_files(folder: Path, *names: str, text: str, former: Iterable[str] = ()) -> None:
    with atomic_files(folder, former) as inside:
        for name in names:
            (inside / name).write_text(text)
        assert not folder.exists() or all(
            path.read_text() != text for path in folder.iterdir() if path.is_file()
        )


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_appear_together(tmp_path):
    folder = tmp_path / 'deep' / 'out'
    write_files(folder, 'a', 'b', text='1')
    assert content(folder) == {'a': '1', 'b': '1'}
    (folder / 'mine').write_text('mine')
    write_files(folder, 'b', 'c', text='2', former=('a', 'c', 'nowhere'))
    assert content(folder) == {'b': '2', 'c': '2', 'mine': 'mine'}
    assert [path.name for path in folder.parent.iterdir()] == ['out']


def test_two_may_make_the_same_folder(tmp_path):
    folder = tmp_path / 'out'
    with atomic_files(folder) as mine:
        (mine / 'a').write_text('mine')
        (mine / 'b').write_text('mine')
        write_files(folder, 'b', 'c', text='other')
    assert content(folder) == {'a': 'mine', 'b': 'mine', 'c': 'other'}
    assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('moves', range(5))
@pytest.mark.parametrize('error', [OSError(errno.EIO, 'broken'), KeyboardInterrupt()])
def test_an_error_among_the_files_leaves_the_folder_as_it_was(moves, error, tmp_path, monkeypatch):
    folder = tmp_path / 'out'
    write_files(folder, 'a', 'b', 'mine', text='1')
    replace, done = Path.replace, []

    def fail_once(self: Path, target: Path) -> Path:
        done.append(self)
        if len(done) == moves + 1:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, 'replace', fail_once)
    with pytest.raises(type(error)):
        write_files(folder, 'b', 'c', 'd', text='2', former=('a',))
    assert len(done) > moves
    assert content(folder) == {'a': '1', 'b': '1', 'mine': '1'}


def test_an_error_before_leaves_no_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_files(tmp_path / 'out', '.', text='')
    assert list(tmp_path.iterdir()) == []


def test_encoders_see_the_suffix_and_what_was_not_written_does_not_appear(tmp_path):
    with atomic_path(tmp_path / 'film.mp4') as aside:
        assert aside.suffix == '.mp4'
        assert aside.name.startswith('.')
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_one_or_can_become_one(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / 'a' / 'b', Path('a'), Path('.')):
        require_folder(place)
    assert not (tmp_path / 'a').exists()
    for place in (tmp_path / 'file', Path('file/a/b')):
        with pytest.raises(ConfigError, match='file is a file; give a folder'):
            require_folder(place)
    monkeypatch.setattr(os, 'access', lambda *args: False)
    with pytest.raises(ConfigError, match='is not writable'):
        require_folder(tmp_path / 'a')
