"""Files of weights on this machine: downloaded once, and verified.

Environment: ``CONVNEXT_WEIGHTS`` is a folder in which files are looked for first and kept (otherwise
torch.hub's); ``CONVNEXT_WEIGHTS_MIRROR`` is an address that takes the place of the scheme and host of
every URL.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
from tqdm import tqdm

from backbones.errors import WeightsError

from .sources import Source

FOLDER, MIRROR = 'CONVNEXT_WEIGHTS', 'CONVNEXT_WEIGHTS_MIRROR'


_CHUNK = 2**20


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
