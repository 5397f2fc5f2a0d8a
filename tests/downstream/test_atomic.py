"""What appears under its name is complete."""

import os
import stat
from pathlib import Path

import pytest

from backbones.errors import ConfigError
from downstream.atomic import atomic, atomic_path, require_folder


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
