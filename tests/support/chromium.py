"""Headless Chromium over its DevTools pipe, without a network: pages opened from files."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_SECONDS = 60


def program() -> str | None:
    """The browser of this machine, if it has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(
    program() is None, reason='no chromium on the PATH; on Debian: apt-get install chromium'
)


class Page:
    """A page in a browser, with everything that it complained of or asked the network for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._numbers, self._buffer = itertools.count(1), b''
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Runtime', 'Log', 'Page', 'Network'):
            self.call(f'{domain}.enable')
        self.call(
            'Network.emulateNetworkConditions',
            offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
        )  # fmt: skip

    def call(self, method: str, **params) -> dict:
        """The result of a method of the protocol."""
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._next()
            if answer.get('id') == number:
                assert 'error' not in answer, (method, answer['error'])
                return answer['result']
            self._note(answer)

    def _next(self) -> dict:
        deadline = time.monotonic() + _SECONDS
        while b'\0' not in self._buffer:
            left = max(0, deadline - time.monotonic())
            assert select.select([self._read], [], [], left)[0], 'no answer'
            received = os.read(self._read, 1 << 20)
            assert received, 'the browser has ended'
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(line)

    def _note(self, event: dict) -> None:
        params = event.get('params', {})
        if event.get('method') == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(params['exceptionDetails'])[:500])
        elif event.get('method') == 'Log.entryAdded' and params['entry']['level'] == 'error':
            self.errors.append(params['entry']['text'])
        elif event.get('method') == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'][:100])

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file and wait until its script has run."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self.call('Page.navigate', url=path.resolve().as_uri())
        deadline = time.monotonic() + _SECONDS
        while (
            self.run('location.href + document.readyState') != f'{path.resolve().as_uri()}complete'
        ):
            assert time.monotonic() < deadline, f'{path} does not load'
            time.sleep(0.05)

    def run(self, expression: str) -> object:
        """The value of an expression of JavaScript."""
        answer = self.call(
            'Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True
        )
        assert 'exceptionDetails' not in answer, (expression, answer['exceptionDetails'])
        return answer['result'].get('value')

    def screenshot(self, path: Path, whole: bool = False, quality: int | None = None) -> None:
        """What is seen, as a PNG or, with a quality, a JPEG; the whole page if asked to."""
        form = {'format': 'jpeg', 'quality': quality} if quality else {'format': 'png'}
        answer = self.call('Page.captureScreenshot', captureBeyondViewport=whole, **form)
        path.write_bytes(base64.b64decode(answer['data']))


def _moved(descriptor: int) -> int:
    """A descriptor as one of at least 10, which closes on exec."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with a profile in ``folder``.

    Args:
        folder: For its profile.
    """
    # The protocol is on the descriptors 3 and 4 of the browser; ours must not be in their place.
    to_browser, write, read, from_browser = (_moved(one) for one in (*os.pipe(), *os.pipe()))
    command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    words = [
        program(), '--headless=new', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe',
        '--no-first-run', '--disable-dev-shm-usage', '--disable-background-networking',
        f'--user-data-dir={folder / "profile"}',
    ]  # fmt: skip
    process = subprocess.Popen(
        ['bash', '-c', command, *map(str, words)],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(write, read)
    finally:
        os.close(write)
        os.close(read)
        process.terminate()
        process.wait(_SECONDS)
