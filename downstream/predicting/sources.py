"""What is to be predicted on: pictures and videos that paths, folders, globs, lists and URLs name."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from backbones.errors import DataError
from downstream.data.formats.images import SUFFIXES, files_below, read_text, relative_names

VIDEOS = frozenset(['.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv'])
_ARRAYS = frozenset(['.npy'])
_WILD = '*?['


@dataclass(frozen=True)
class Source:
    """A picture or a video.

    Attributes:
        place: A path or a URL.
        name: With folders, as outputs are called after it; no two sources have the same one.
        stem: ``name`` without its suffix; with it, if another source has the same one.
        is_video: Whether it has frames.
    """

    place: str
    name: str
    stem: str
    is_video: bool

    @property
    def is_url(self) -> bool:
        return is_url(self.place)


def is_url(text: str) -> bool:
    """Whether ``text`` is an address of a server."""
    return text.lower().startswith(('http://', 'https://'))


def find_sources(words: Sequence[str]) -> list[Source]:
    """The pictures and videos that the words of a command line name, each once, in their order.

    A word is a file, a folder of any depth, a pattern (``**`` is any number of folders), a text file
    with a path, pattern or URL on each line, or a URL. Files of a folder come by name. A path in a text
    file may be of a file that does not exist; a lost picture of a thousand is no reason to start over.

    Raises:
        DataError: A word names nothing, or no pictures.
    """
    if not words:
        raise DataError('no source: name a picture, a folder, a pattern, a list, a video or a URL.')
    places = [place for word in words for place in _places(word)]
    return _named(dict.fromkeys(place if is_url(place) else _absolute(place) for place in places))


def _absolute(place: str) -> str:
    return os.path.abspath(place)


def _places(word: str) -> list[str]:
    path = Path(word)
    if is_url(word):
        return [word]
    if path.is_dir():
        found = [str(file) for file in files_below(path, SUFFIXES | VIDEOS | _ARRAYS)]
        if not found:
            raise DataError(f'{word} has no picture or video in it, however deep.')
        return found
    if path.is_file():
        return _listed(path) if path.suffix.lower() == '.txt' else [word]
    if any(sign in word for sign in _WILD):
        found = sorted(name for name in glob.glob(word, recursive=True) if _is_shown(name))
        if not found:
            raise DataError(f'{word} matches no picture or video.')
        return found
    raise DataError(f'{word} does not exist.')


def _is_shown(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES | VIDEOS | _ARRAYS and os.path.isfile(name)


def _listed(path: Path) -> list[str]:
    """The places that the lines of a text file name, relative to the current folder or to its own."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith('#')]
    if not lines:
        raise DataError(f'{path} names no picture: write a path or a URL on each line.')
    places: list[str] = []
    for line in lines:
        if is_url(line) or os.path.isfile(line):
            places.append(line)
            continue
        beside = str(path.parent / line)
        if os.path.isdir(line) or os.path.isdir(beside):
            places += _places(line if os.path.isdir(line) else beside)
        elif any(sign in line for sign in _WILD) and not os.path.isfile(beside):
            places += _places(line if glob.glob(line, recursive=True) else beside)
        else:
            places.append(beside)
    return places


def _named(places: Iterable[str]) -> list[Source]:
    places = list(places)
    local = [place for place in places if not is_url(place)]
    names = dict(zip(local, relative_names([Path(p) for p in local])[1])) if local else {}
    taken = set(names.values())
    for place in places:
        if place not in names:
            names[place] = _name_of_url(place, taken)
    counts = Counter(_stem(name).casefold() for name in names.values())
    used: set[str] = set()
    sources = []
    for place in places:
        name = names[place]
        stem = _stem(name) if counts[_stem(name).casefold()] == 1 else name
        # A full name may be the stem of another file: x.jpg, x.png and x.jpg.tif.
        while stem.casefold() in used:
            stem += '_'
        used.add(stem.casefold())
        is_video = os.path.splitext(name)[1].lower() in VIDEOS
        sources.append(Source(place, name, stem, is_video))
    return sources


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(''))


def _name_of_url(url: str, taken: set[str]) -> str:
    """A name that is not taken, which it is then."""
    base = PurePosixPath(unquote(urlparse(url).path)).name
    base = ''.join(sign if sign.isalnum() or sign in '._-' else '_' for sign in base)
    base = base.strip('.') or 'picture'
    name, number = base, 2
    while name in taken:
        name, number = f'{number}_{base}', number + 1
    taken.add(name)
    return name
