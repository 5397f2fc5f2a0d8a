"""From the name of weights to where they are published, and under which licence."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from safetensors import SafetensorError, safe_open

from backbones.errors import WeightsError

HUB = 'https://huggingface.co/{repo}/resolve/{revision}/{file}'
# What follows the file, such as ?download=true, is for browsers.
_HUB_URL = re.compile(r'https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)(?:[?#].*)?')
_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
# Publishers whose repositories have the licence that their names tell.
_PUBLISHERS = ('timm/', 'facebook/')
_TABLE = Path(__file__).with_name('weights.json')
#: Of weights of which nothing says their licence.
UNKNOWN_LICENCE = 'not known here; see where the weights come from'
#: How the licence ends that only a file's name suggests: anyone can give a file any name.
SUPPOSED = '(as the official files of that name)'


@cache
def weights_table() -> dict[str, dict]:
    """Every published checkpoint by name.

    A row has ``url``, ``layout``, ``licence``, ``resolution`` and ImageNet-1k ``top1`` (percent, or
    None where no figure is published).
    """
    return json.loads(_TABLE.read_text())


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        name: As the user gave it.
        licence: Of the weights.
        path: A file on this machine.
        urls: Alternatives, of which the first that exists is taken.
        repo: Repository on the Hugging Face Hub.
        revision: Its branch, tag or commit.
        files: The files of the repository at ``urls``.
    """

    name: str
    licence: str = UNKNOWN_LICENCE
    path: Path | None = None
    urls: tuple[str, ...] = ()
    repo: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()


def find(name: str) -> Source:
    """The source that ``name`` means.

    Args:
        name: A name of :func:`weights_table`, a path, a URL, ``timm:<model.tag>`` or
            ``hf:<user>/<repo>[/<file>][@<revision>]``.

    Raises:
        WeightsError: It is none of them.
    """
    row = weights_table().get(name)
    if row:
        return _of_url(name, row['licence'], row['url'])
    if name.startswith(('http://', 'https://')):
        return _of_url(name, _licence_of_url(name), name)
    kind, _, repo = name.partition(':')
    if kind == 'timm' and repo:
        return _of_timm(name, repo)
    if kind == 'hf' and repo:
        return _of_hub_name(name, repo)
    if Path(name).is_file():
        stated = _stated_licence(Path(name))
        return Source(name, stated or _supposed(_licence_of(Path(name).name)), path=Path(name))
    if Path(name).is_dir():
        raise WeightsError(f'{name} is a folder; name the file in it.')
    near = get_close_matches(name, weights_table(), 3, 0.6)
    raise WeightsError(
        f'{name!r} is no file and no name of the table of weights.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
        + f' Names: {", ".join(weights_table())}. Paths, URLs, timm:<model.tag> and '
        'hf:<user>/<repo> are taken too.'
    )


def file_name(name: str) -> str:
    """The name of the file that ``name`` means, without folders.

    Args:
        name: A path, a URL, whose query and fragment are no part of it, or ``hf:`` as of :func:`find`.

    Returns:
        The name; empty for a repository whose file is not given.
    """
    if name.startswith(('http://', 'https://')):
        return PurePosixPath(urlparse(name).path).name
    if name.startswith('hf:'):
        return PurePosixPath(_parts_of_hub_name(name.removeprefix('hf:'))[1]).name
    return Path(name).name


def _parts_of_hub_name(place: str) -> tuple[str, str, str]:
    """Repository, file and revision, empty where they are not given."""
    place, _, revision = place.partition('@')
    parts = place.split('/')
    return '/'.join(parts[:2]), '/'.join(parts[2:]), revision


def _of_hub_name(name: str, place: str) -> Source:
    repo, file, revision = _parts_of_hub_name(place)
    files = (file,) if file else _HUB_FILES
    return _of_hub(name, _licence_of_repo(repo), f'{repo}@{revision}', files)


def _of_hub(name: str, licence: str, repo: str, files: tuple[str, ...] = _HUB_FILES) -> Source:
    repo, _, revision = repo.partition('@')
    revision = revision or 'main'
    urls = tuple(HUB.format(repo=repo, revision=revision, file=file) for file in files)
    return Source(name, licence, None, urls, repo, revision, files)


def _of_url(name: str, licence: str, url: str) -> Source:
    found = _HUB_URL.fullmatch(url)
    if found:
        repo, revision, file = found.groups()
        return _of_hub(name, licence, f'{repo}@{revision}', (file,))
    return Source(name, licence, urls=(url,))


def _of_timm(name: str, model_and_tag: str) -> Source:
    """The file that timm's description of the weights names, and its licence where no other is known."""
    from .timm_catalog import pretrained_cfg

    cfg = pretrained_cfg(model_and_tag)
    licence = _licence_of(f'timm/{model_and_tag}')
    if licence == UNKNOWN_LICENCE and cfg.license:
        licence = f'{cfg.license} (according to timm)'
    if cfg.hf_hub_id:
        return _of_hub(name, licence, cfg.hf_hub_id)
    if isinstance(cfg.url, str) and cfg.url and not cfg.custom_load:
        return _of_url(name, licence, cfg.url)
    raise WeightsError(f'{name}: timm names no file that can be downloaded and read.')


def _licence_of_url(url: str) -> str:
    """The licence of a row with this address, or else what the name suggests."""
    known = [row['licence'] for row in weights_table().values() if row['url'] == url]
    return known[0] if known else _supposed(_licence_of(url.partition('?')[0]))


def _licence_of_repo(repo: str) -> str:
    licence = _licence_of(repo.partition('@')[0])
    return licence if repo.startswith(_PUBLISHERS) else _supposed(licence)


def _stated_licence(path: Path) -> str | None:
    """The licence that a file of safetensors states itself, as those of pre-training do."""
    if path.suffix != '.safetensors':
        return None
    try:
        with safe_open(path, 'pt') as file:
            stated = (file.metadata() or {}).get('licence')
    except SafetensorError:
        return None  # whoever reads the tensors says so
    # tools/publish.py writes all it states as JSON.
    return json.loads(stated) if stated and stated.startswith('"') else stated


def _supposed(licence: str) -> str:
    """A licence that only a file's name suggests."""
    if licence == UNKNOWN_LICENCE:
        return licence
    return f'{licence} {SUPPOSED}'


def _licence_of(text: str) -> str:
    """The licence of the official files that have this name, or whose names have its form."""
    text = text.lower()
    for row in weights_table().values():
        if row['url'].lower().rsplit('/', 1)[-1] == text.rsplit('/', 1)[-1] != 'model.safetensors':
            return row['licence']
    if 'dinov3' in text:
        return 'DINOv3 License'
    if re.search(r'convnext[-_]?v2', text):
        return 'CC-BY-NC-4.0'
    if re.search(r'(^|/)convnext[-_](tiny|small|base|large|xlarge)[-._](fb_|224|384|1k|22k)', text):
        return 'MIT'
    return UNKNOWN_LICENCE
