"""What the words of a command line name, and what outputs are called."""

from pathlib import Path

import pytest

from backbones.errors import DataError
from downstream.predicting.sources import find_sources


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    touch(tmp_path, 'in/a/x.jpg', 'in/b/c/x.jpg', 'in/b/y.PNG', 'in/notes.txt', 'in/.hidden/z.jpg')
    touch(tmp_path, 'in/b/film.mp4')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_any_depth_with_pictures_and_videos(folder):
    found = find_sources(['in'])
    assert [source.name for source in found] == ['a/x.jpg', 'b/c/x.jpg', 'b/film.mp4', 'b/y.PNG']
    assert [source.is_video for source in found] == [False, False, True, False]
    assert found[0].place == str(folder / 'in' / 'a' / 'x.jpg')


def test_the_same_name_in_different_folders_gives_different_outputs(folder):
    found = find_sources(['in/a/x.jpg', 'in/b/c/x.jpg'])
    assert [source.stem for source in found] == ['a/x', 'b/c/x']


def test_names_that_differ_in_the_suffix_alone_give_different_outputs(folder):
    touch(folder, 'd/x.jpg', 'd/X.png', 'd/x.jpg.tif', 'd/y.png')
    stems = [source.stem for source in find_sources(['d'])]
    assert len({stem.casefold() for stem in stems}) == 4
    assert 'y' in stems


def test_a_pattern(folder):
    assert [s.name for s in find_sources(['in/**/*.jpg'])] == ['a/x.jpg', 'b/c/x.jpg']
    assert [s.name for s in find_sources(['in/*/x.*'])] == ['x.jpg']


def test_a_list_keeps_its_order_and_names_lost_files(folder):
    lines = '# two of them\nin/b/y.PNG\n\nin/a/x.jpg\nlost.jpg\nhttp://host/p.jpg\nin/b/y.PNG\n'
    Path('list.txt').write_text(lines)
    found = find_sources(['list.txt'])
    assert [Path(source.place).name for source in found] == ['y.PNG', 'x.jpg', 'lost.jpg', 'p.jpg']


def test_a_list_is_relative_to_its_own_folder_too(folder):
    (folder / 'in' / 'list.txt').write_text('a/x.jpg\nb/*.PNG\n')
    assert [s.name for s in find_sources(['in/list.txt'])] == ['a/x.jpg', 'b/y.PNG']


def test_urls_have_names_of_their_own(folder):
    urls = [
        'https://host/a/x.jpg?size=1',
        'https://host/b/x.jpg',
        'http://host',
        'http://host/v.mp4',
    ]
    found = find_sources(urls)
    assert [source.name for source in found] == ['x.jpg', '2_x.jpg', 'picture', 'v.mp4']
    assert [source.place for source in found] == urls
    assert [source.is_video for source in found] == [False, False, False, True]


def test_a_url_leads_out_of_no_folder():
    (source,) = find_sources(['http://host/a/..%2f..%2fetc/%2e%2e'])
    assert '/' not in source.name
    assert source.name.strip('.')


def test_each_file_once(folder):
    assert len(find_sources(['in/a/x.jpg', 'in/a', str(folder / 'in' / 'a' / 'x.jpg')])) == 1


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'no source'),
        (['lost'], 'lost does not exist'),
        (['in/*.jpg'], 'matches no picture'),
        (['empty'], 'no picture or video in it'),
        (['empty.txt'], 'names no picture'),
    ],
)
def test_words_that_name_nothing(folder, words, message):
    (folder / 'empty').mkdir()
    (folder / 'empty.txt').write_text('# nothing\n')
    with pytest.raises(DataError, match=message):
        find_sources(words)
