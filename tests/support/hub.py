"""A server on this machine in the place of the Hugging Face Hub and of file servers."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest
from huggingface_hub import constants

from backbones.weights.download import MIRROR


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path as the Hub and file servers do, counts answers, and can break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        self.commit: str | None = None  # of all files; None: each of its own
        self.validates = True  # sends ETags and honours If-Range
        self.obeys_range_always = False  # ignores If-Range, as some servers do


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(only_head=True)

    def do_GET(self) -> None:
        wanted = self.headers.get('Range')
        self.server.asked.append((self.path, wanted))
        self.answer(only_head=False)

    def answer(self, only_head: bool) -> None:
        body = self.server.files.get(self.path)
        if body is None:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        wanted = self.headers.get('Range')
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.headers.get('If-Range') != etag and not self.server.obeys_range_always:
            wanted = None
        start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header('Content-Length', str(len(body) - start))
        self.send_header('X-Repo-Commit', self.server.commit or hashlib.sha1(body).hexdigest())
        if self.server.validates:
            self.send_header('ETag', etag)
        if wanted:
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        self.end_headers()
        end = self.server.break_after
        self.server.break_after = None
        if not only_head:
            self.wfile.write(body[start:end])

    def log_message(self, *args) -> None:
        pass


AnyServer = TypeVar('AnyServer', bound=Server)


def served() -> AbstractContextManager[Server]:
    """A server that runs until the block ends."""
    return running(Server())


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """``server``, which runs until the block ends."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def use_as_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``server`` be the Hub, as HF_ENDPOINT does when huggingface_hub is imported."""
    address = f'http://127.0.0.1:{server.server_port}'
    template = address + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.delenv(MIRROR, raising=False)
