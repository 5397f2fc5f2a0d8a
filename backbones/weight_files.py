"""Checkpoint files: found by name, path or URL, downloaded once, verified, and read as data alone.

Environment: ``CONVNEXT_WEIGHTS`` is a folder in which files are looked for first and kept (otherwise
torch.hub's); ``CONVNEXT_WEIGHTS_MIRROR`` is an address that takes the place of the scheme and host of
every URL.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor
from tqdm import tqdm

from .errors import WeightsError

FOLDER, MIRROR = 'CONVNEXT_WEIGHTS', 'CONVNEXT_WEIGHTS_MIRROR'
HUB = 'https://huggingface.co/{repo}/resolve/main/{file}'
_TABLE = Path(__file__).with_name('weights.json')
_CHUNK = 2**20
_UNKNOWN_LICENCE = 'not known here; see where the weights come from'


@cache
def weights_table() -> dict[str, dict]:
    """Every published checkpoint by name.

    A row has ``url``, ``layout``, ``licence``, ``resolution`` and ImageNet-1k ``top1`` (percent, or
    None where no figure is published).
    """
    return json.loads(_TABLE.read_text())


@dataclass(frozen=True)
class Source:
    """Where weights come from: ``urls`` are alternatives, ``path`` a local file."""

    name: str
    licence: str = _UNKNOWN_LICENCE
    path: Path | None = None
    urls: tuple[str, ...] = ()


def find(name: str) -> Source:
    """The source that ``name`` means.

    Args:
        name: A name of :func:`weights_table`, a path, a URL, ``timm:<model.tag>`` or ``hf:<repo>``.

    Raises:
        WeightsError: It is none of them.
    """
    row = weights_table().get(name)
    if row:
        return Source(name, row['licence'], urls=(row['url'],))
    if name.startswith(('http://', 'https://')):
        return Source(name, _licence_of(name), urls=(name,))
    kind, _, repo = name.partition(':')
    if kind == 'timm' and repo:
        return _of_timm(name, repo)
    if kind == 'hf' and repo:
        return Source(name, _licence_of(repo), urls=_hub_urls(repo))
    if Path(name).is_file():
        return Source(name, _licence_of(Path(name).name), path=Path(name))
    if Path(name).is_dir():
        raise WeightsError(f'{name} is a folder; name the file in it.')
    near = get_close_matches(name, weights_table(), 3, 0.6)
    raise WeightsError(
        f'{name!r} is no file and no name of the table of weights.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
        + f' Names: {", ".join(weights_table())}. Paths, URLs, timm:<model.tag> and hf:<repo> are '
        'taken too.'
    )


def _hub_urls(repo: str) -> tuple[str, ...]:
    return tuple(HUB.format(repo=repo, file=f) for f in ('model.safetensors', 'pytorch_model.bin'))


def _of_timm(name: str, model_and_tag: str) -> Source:
    """timm's own description of where its weights lie; of their licence where no other is known."""
    from .timm_models import pretrained_cfg

    cfg = pretrained_cfg(model_and_tag)
    licence = _licence_of(f'timm/{model_and_tag}')
    if licence == _UNKNOWN_LICENCE and cfg.license:
        licence = f'{cfg.license} (according to timm)'
    urls = _hub_urls(cfg.hf_hub_id) if cfg.hf_hub_id else ()
    if not urls and cfg.url and not cfg.custom_load:
        urls = (cfg.url,)
    if not urls:
        raise WeightsError(f'{name}: timm names no file that can be downloaded and read.')
    return Source(name, licence, urls=urls)


def _licence_of(text: str) -> str:
    """The licence that the name of a file or a repository tells."""
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
    return _UNKNOWN_LICENCE


def local_file(source: Source) -> Path:
    """The file of ``source`` on this machine, downloaded and verified if it has to be.

    Raises:
        WeightsError: It cannot be downloaded, or is not what it was the first time.
    """
    if source.path:
        return source.path
    missing = []
    for url in source.urls:
        target = weights_folder() / _file_name(url)
        try:
            with _locked(target):
                if not target.is_file():
                    _download(_mirrored(url), target)
                _verify(target)
            return target
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403, 404):
                raise WeightsError(f'{source.name}: {url} answers {error}.') from error
            missing.append(url)
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, 'reason', error)
            raise WeightsError(
                f'{source.name}: cannot download {_mirrored(url)} ({reason}). Without network, put '
                f'the file at {target} (or name its folder in {FOLDER}) and start again.'
            ) from error
    raise WeightsError(f'{source.name}: there is nothing at {" or ".join(missing)}.')


def weights_folder() -> Path:
    """Where downloaded weights lie."""
    return Path(os.environ.get(FOLDER) or Path(torch.hub.get_dir()) / 'checkpoints')


def _file_name(url: str) -> str:
    path = urlparse(url).path
    if '/resolve/' in path:  # on the Hub every model's file has the same name
        return path.strip('/').replace('/resolve/main/', '/').replace('/', '--')
    return path.rsplit('/', 1)[-1]


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR)
    return mirror.rstrip('/') + urlparse(url).path if mirror else url


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time works on ``target``; the others wait."""
    if target.is_file() and not os.access(target.parent, os.W_OK):
        yield  # an offline folder that is shared and read-only
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f'.{target.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(url: str, target: Path) -> None:
    """Fetch ``url`` aside, going on with what an earlier try got, and rename it when it is whole."""
    part = target.with_name(f'.{target.name}.part')
    have = part.stat().st_size if part.is_file() else 0
    headers = {'Range': f'bytes={have}-'} if have else {}
    request = urllib.request.Request(url, headers=headers | {'User-Agent': 'convnext-dense'})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # all of it was there, or another file is
            part.unlink()
            return _download(url, target)
        raise
    with answer:
        resumed = answer.status == 206
        rest = int(answer.headers.get('Content-Length') or 0)
        total = (have if resumed else 0) + rest
        with (
            open(part, 'ab' if resumed else 'wb') as file,
            tqdm(total=total or None, initial=total - rest, unit='B', unit_scale=True,
                 desc=target.name) as bar,
        ):  # fmt: skip
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size != total:
        raise OSError(f'broke off at {part.stat().st_size} of {total} bytes; it goes on next time')
    part.replace(target)


def _verify(path: Path) -> None:
    """Compare the SHA-256 with the one in the name (``-0123abcd.pth``) and with the first use's."""
    digest = sha256(path)
    named = re.search(r'-([0-9a-f]{8,64})\.[a-z]+$', path.name)
    if named and not digest.startswith(named[1]):
        aside = path.with_name(f'{path.name}.damaged')
        path.replace(aside)
        raise WeightsError(
            f'{path} is damaged: its SHA-256 is {digest[:12]}..., its name says {named[1]}. It was '
            f'moved to {aside.name}; start again to download it anew.'
        )
    record = path.with_name(f'{path.name}.sha256')
    if record.is_file():
        first = record.read_text().split()[0]
        if first != digest:
            raise WeightsError(
                f'{path} has changed since its first use (SHA-256 {first[:12]}..., now '
                f'{digest[:12]}...). If that is meant, delete {record.name}.'
            )
    elif os.access(path.parent, os.W_OK):
        aside = record.with_name(f'.{record.name}.{os.getpid()}')
        aside.write_text(f'{digest}  {path.name}\n')
        aside.replace(record)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """The state dict in ``path``, whatever it is wrapped in; see :func:`read_content`.

    Raises:
        WeightsError: It holds none, or values that are no numbers.
    """
    state = _unwrapped(read_content(path, trust))
    if state is None:
        raise WeightsError(f'{path} holds no state dict (a dict of names and tensors).')
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f'{path}: {key} has values that are no numbers (NaN or infinite).')
    return state


def read_content(path: Path, trust: bool = False) -> object:
    """What ``path`` holds, ``.safetensors`` or what torch.save wrote.

    Args:
        path: A file.
        trust: Unpickle whatever the file holds. That can run any program in it.

    Raises:
        WeightsError: It is no checkpoint, is broken, or holds more than data.
    """
    if path.stat().st_size == 0:
        raise WeightsError(f'{path} is empty.')
    with open(path, 'rb') as file:
        head = file.read(512)
    if head.lstrip()[:1] == b'<':
        raise WeightsError(f'{path} is a web page, not a checkpoint; was its address right?')
    if head.startswith(b'version https://git-lfs'):
        raise WeightsError(f'{path} is a Git LFS pointer; fetch the file itself (git lfs pull).')
    return _read_safetensors(path) if path.suffix == '.safetensors' else _unpickled(path, trust)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no .safetensors file or is cut off: {error}') from error


def _unpickled(path: Path, trust: bool) -> object:
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if trust:
            return torch.load(path, map_location='cpu', weights_only=False)
        found = re.search(
            r'GLOBAL (\S+)|Unsupported (?:global|class): (?:GLOBAL )?(\S+)', str(error)
        )
        if found is None:
            raise WeightsError(f'{path} is not a checkpoint: it cannot be unpickled.') from error
        raise WeightsError(
            f'{path} holds more than data ({found[1] or found[2]}), and loading it would run code of '
            'its author. If you trust the file, say --trust-checkpoint (trust=True).'
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f'{path} is no checkpoint or is cut off: {reason}') from error


_WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'module')


def _unwrapped(content: object) -> dict[str, Tensor] | None:
    """The state dict within ``content``, whatever it is wrapped in."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            return None
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return state if state and len(state) == len(content) else None
