"""Files of weights on this machine: downloaded once, and verified.

Files of the Hugging Face Hub are downloaded by ``huggingface_hub``, with its cache, locks, token
(``HF_TOKEN``), address (``HF_ENDPOINT``) and offline mode (``HF_HUB_OFFLINE``).

Environment: ``CONVNEXT_WEIGHTS`` is a folder that is searched first and that downloads are written to
(default: torch.hub's, and the Hub's own cache); ``CONVNEXT_WEIGHTS_MIRROR`` is an address that replaces
the scheme and host of every URL. It may be a plain file server, so files of the Hub are then downloaded
like others.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from logging import WARNING
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from tqdm import tqdm

from backbones.errors import WeightsError

from .sources import Source

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

FOLDER, MIRROR = 'CONVNEXT_WEIGHTS', 'CONVNEXT_WEIGHTS_MIRROR'
_CHUNK = 2**20
# What flock answers on file systems without locks, such as Lustre mounted without `flock`, and old NFS.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def local_file(source: Source) -> Path:
    """The file of ``source`` on this machine. It is downloaded if it is not there, and verified.

    Raises:
        WeightsError: It cannot be downloaded, is damaged, or has changed since its first use.
    """
    if source.path:
        return source.path
    for url in source.urls:
        target = weights_folder() / _file_name(url)
        if target.is_file():
            with _locked(target):
                _verify(target, _digest_in_name(target), _record_of(target.name), url)
            return target
    if source.repo and not os.environ.get(MIRROR):
        return _from_hub(source, source.repo)
    return _from_urls(source)


def weights_folder() -> Path:
    """The folder of downloaded weights."""
    return Path(os.environ.get(FOLDER) or Path(torch.hub.get_dir()) / 'checkpoints')


def _record_of(name: str) -> Path:
    return weights_folder() / f'{name}.sha256'


def _from_urls(source: Source) -> Path:
    missing = []
    for url in source.urls:
        target = weights_folder() / _file_name(url)
        try:
            with _locked(target) as locked:
                if not target.is_file():
                    _download(_mirrored(url), target, _part_of(target, locked))
                _verify(target, _digest_in_name(target), _record_of(target.name), url)
            return target
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403, 404):
                raise WeightsError(f'{source.name}: {url} answers {error}.') from error
            missing.append(url)
        except (urllib.error.URLError, OSError) as error:
            raise _cannot_download(source, _mirrored(url), target, error) from error
    raise WeightsError(f'{source.name}: there is nothing at {" or ".join(missing)}.')


def _cannot_download(source: Source, url: str, target: Path, error: Exception) -> WeightsError:
    reason = str(getattr(error, 'reason', error)).strip().partition('\n')[0]
    return WeightsError(
        f'{source.name}: cannot download {url} ({reason}). Without network, put '
        f'the file at {target} (or name its folder in {FOLDER}) and start again.'
    )


def _from_hub(source: Source, repo: str) -> Path:
    """The first of the files of a Hub repository that exists there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for url, file in zip(source.urls, source.files):
        target = weights_folder() / _file_name(url)
        try:
            found = hf_hub_download(
                repo,
                file,
                revision=source.revision,
                cache_dir=os.environ.get(FOLDER) or None,
            )
        except LocalEntryNotFoundError as error:
            raise _cannot_download(source, url, target, error) from error
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError as error:
            raise WeightsError(
                f'{source.name}: there is nothing at {url}; the repository {repo} does not exist '
                'on the Hub, or is private (log in with `hf auth login` or set HF_TOKEN).'
            ) from error
        except RevisionNotFoundError as error:
            raise WeightsError(
                f'{source.name}: {repo} has no revision {source.revision!r}.'
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise _cannot_download(source, url, target, error) from error
        path = Path(found)
        # The Hub's cache names a large file by its SHA-256.
        named = re.fullmatch(r'[0-9a-f]{64}', path.resolve().name)
        _verify(path, named and named[0], _record_of(_file_name(url)), url)
        return path
    files = ' or '.join(source.files)
    raise WeightsError(f'{source.name}: there is nothing at {source.urls[0]}: no {files}.')


def _file_name(url: str) -> str:
    path = urlparse(url).path
    if '/resolve/' in path:  # on the Hub every model's file has the same name
        return path.strip('/').replace('/resolve/main/', '/').replace('/', '--')
    return path.rsplit('/', 1)[-1]


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR)
    return mirror.rstrip('/') + urlparse(url).path if mirror else url


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Let one process at a time work on ``target``; False where the file system has no locks."""
    if target.is_file() and not os.access(target.parent, os.W_OK):
        yield False  # an offline folder that is shared and read-only
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f'.{target.name}.lock'), 'w') as lock:
        yield _lock(lock.fileno(), target.parent)


def _lock(descriptor: int, folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print_log(
            f'{folder} has no file locks ({error.strerror}): each process downloads for itself.',
            'current',
            WARNING,
        )
        return False
    return True


def _part_of(target: Path, locked: bool) -> Path:
    """Where the download is written; without a lock every process has its own."""
    own = '' if locked else f'.{socket.gethostname()}-{os.getpid()}'
    return target.with_name(f'.{target.name}{own}.part')


def _download(url: str, target: Path, part: Path) -> None:
    """Download ``url`` to ``part``, continuing an interrupted download, and rename it when complete.

    The server's validator of the file (ETag or date) is stored beside ``part``. Only a server that
    confirms it sends the rest; otherwise the download starts anew, so that parts of two files are never
    joined.
    """
    validator_file = part.with_name(f'{part.name}.validator')
    have = part.stat().st_size if part.is_file() else 0
    validator = validator_file.read_text() if have and validator_file.is_file() else ''
    headers = {'User-Agent': 'convnext-dense'}
    if validator:
        headers |= {'Range': f'bytes={have}-', 'If-Range': validator}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and validator:  # the server's file is not longer than the part
            validator_file.unlink()
            return _download(url, target, part)
        raise
    with answer:
        resumed = answer.status == 206
        if resumed and not _continues(answer.headers, have, validator):
            validator_file.unlink()
            return _download(url, target, part)
        if not resumed:
            part.unlink(missing_ok=True)
            validator_file.write_text(_validator(answer.headers))
        rest = int(answer.headers.get('Content-Length') or 0)
        total = (have if resumed else 0) + rest
        with (
            open(part, 'ab') as file,
            tqdm(total=total or None, initial=total - rest, unit='B', unit_scale=True,
                 desc=target.name) as bar,
        ):  # fmt: skip
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size != total:
        raise OSError(
            f'interrupted at {part.stat().st_size} of {total} bytes; start again to continue'
        )
    part.replace(target)
    validator_file.unlink(missing_ok=True)


def _validator(headers: HTTPMessage) -> str:
    """A value that identifies the server's file: a strong ETag, or its date; '' if there is none."""
    etag = headers.get('ETag') or ''
    return etag if etag and not etag.startswith('W/') else headers.get('Last-Modified') or ''


def _continues(headers: HTTPMessage, have: int, validator: str) -> bool:
    """Whether a partial answer starts where the part ends, in the same file (RFC 9110, 15.3.7)."""
    start = re.match(r'bytes (\d+)-', headers.get('Content-Range') or '')
    return start is not None and int(start[1]) == have and _validator(headers) == validator


def _digest_in_name(path: Path) -> str | None:
    """The first digits of the SHA-256, as in ``resnet50-0676ba61.pth``."""
    named = re.search(r'-([0-9a-f]{8,64})\.[a-z]+$', path.name)
    return named and named[1]


def _verify(path: Path, expected: str | None, record: Path, url: str) -> None:
    """Compare a file's SHA-256 with its first digits in ``expected`` and with that of its first use.

    ``record`` holds the digest, as ``sha256sum -c`` reads it, the file's size and time of modification,
    and the address of the first use. As long as these two are unchanged the file is not hashed again.
    A file of another address may be another one of the same name, unless its digest is ``expected``.
    """
    stat = path.stat()
    stamp = f'# {stat.st_size} bytes, modified at {stat.st_mtime_ns}'
    recorded = record.read_text().splitlines() if record.is_file() else []
    origin = f'# from {_address(url)}'
    if not expected and recorded[2:3] not in ([], [origin]):
        raise WeightsError(
            f'{path} is {recorded[2].removeprefix("# ")}; {_address(url)} may be another file of this '
            f'name. Delete {path.name} and {record.name}, or name another folder in {FOLDER}.'
        )
    if recorded[1:2] == [stamp]:
        if len(recorded) == 2:  # of an older version
            _write_record(record, f'{recorded[0]}\n{stamp}\n{origin}\n')
        return
    digest = sha256(path)
    if expected and not digest.startswith(expected):
        damaged = path.resolve()
        aside = damaged.with_name(f'{damaged.name}.damaged')
        damaged.replace(aside)
        raise WeightsError(
            f'{path} is damaged: its SHA-256 is {digest[:12]}..., its name says {expected[:12]}. It was '
            f'moved to {aside.name}; start again to download it anew.'
        )
    if recorded and recorded[0].split()[0] != digest:
        raise WeightsError(
            f'{path} has changed since its first use (SHA-256 {recorded[0][:12]}..., now '
            f'{digest[:12]}...). If that is intended, delete {record}.'
        )
    _write_record(record, f'{digest}  {path.name}\n{stamp}\n{origin}\n')


def _address(url: str) -> str:
    """Host and path: a user, a password or a query, which may be a secret, are not written down.

    Where the query and not the path names the file, a digest of it stands for it.
    """
    parts = urlparse(url)
    address = f'{parts.netloc.rpartition("@")[2]}{parts.path}'
    if not parts.query or Path(parts.path).suffix:
        return address
    return f'{address}?{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}'


def _write_record(record: Path, text: str) -> None:
    """Write atomically; a folder that is read-only gets no record."""
    aside = record.with_name(f'.{record.name}.{os.getpid()}')
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.replace(record)
    except PermissionError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
