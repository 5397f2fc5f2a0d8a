"""Pictures and videos from http(s) addresses."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from downstream.data.reading import UnreadableError

_SECONDS = 30
_AGENT = {'User-Agent': 'convnext-dense'}  # some servers refuse Python's own


def download(url: str, path: Path) -> Path:
    """Write what is at ``url`` to ``path``, completely or not at all.

    Raises:
        UnreadableError: There is no answer within 30 seconds, or it is an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        request = urllib.request.Request(url, headers=_AGENT)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer, path.open('wb') as file:
            shutil.copyfileobj(answer, file)
    except (
        urllib.error.URLError,
        HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        path.unlink(missing_ok=True)
        reason = getattr(error, 'reason', None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f'the server answers {error.code} {error.reason}'
        raise UnreadableError(f'{url} cannot be downloaded: {reason}') from error
    return path
