"""Whole trainings whose loggers have a service that hangs or dies, and of several processes."""

import contextlib
import http.server
import json
import os
import re
import runpy
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from downstream.running.checkpoint.read import read
from tests.conftest import ROOT, write_tiny_config
from tests.support import processes

pytestmark = pytest.mark.slow

# What starting, and the end's wait for a logger (20 s), may take on a machine that is busy.
_SECONDS = 150


def train(words: list[str], variables: dict[str, str]) -> None:
    """tools/train.py in this process, with variables of the environment."""
    os.environ.update(variables)
    sys.argv = ['tools/train.py', *words]
    runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')


@pytest.fixture
def run(shapes, tmp_path):
    """Trains a tiny segmenter: ``run(name, *loggers, **variables)`` -> work dir, output, seconds."""
    config = write_tiny_config('segmentation', shapes, tmp_path)

    def start(name: str, *loggers: str, count: int = 1, **variables: str) -> tuple:
        work_dir = tmp_path / name
        words = [str(config), '--work-dir', str(work_dir), '--check-data', 'no']
        words += ['--log-to', *loggers] if loggers else []
        words += ['--launcher', 'pytorch'] if count > 1 else []
        words += ['--cfg-options', 'randomness.seed=3', 'default_hooks.logger.interval=1']
        begun = time.monotonic()
        folder = tmp_path / f'out-{name}'
        arguments = [{'words': words, 'variables': variables}] * count
        processes.finish(processes.start(train, folder, arguments), folder, _SECONDS)
        return work_dir, (folder / 'out0').read_text(), time.monotonic() - begun

    return start


def weights(work_dir: Path) -> dict:
    return read(work_dir / 'iter_2.pth')['state_dict']


def require_same(work_dir: Path, other: Path) -> None:
    first, second = weights(work_dir), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@contextlib.contextmanager
def silent_server():
    """A server that accepts every connection and never answers: its address."""
    with socket.create_server(('127.0.0.1', 0), backlog=100) as server:
        taken = []

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f'http://127.0.0.1:{server.getsockname()[1]}'
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()
    assert taken, 'nobody has called'


VARIABLES = {
    'mlflow': lambda address, folder: {'MLFLOW_TRACKING_URI': address},
    'wandb': lambda address, folder: {'WANDB_BASE_URL': address, 'WANDB_API_KEY': 'x' * 40},
    'trackio': lambda address, folder: {
        'TRACKIO_SERVER_URL': address,
        'TRACKIO_WRITE_TOKEN': 'x',
        'TRACKIO_DIR': str(folder / 'trackio'),
    },
}


@pytest.mark.parametrize('logger', VARIABLES)
def test_a_service_that_accepts_and_never_answers(logger, run, tmp_path):
    pytest.importorskip(logger)
    plain, _, alone = run('plain')
    with silent_server() as address:
        work_dir, shown, seconds = run('logged', logger, **VARIABLES[logger](address, tmp_path))
    require_same(plain, work_dir)
    assert 'Traceback' not in shown
    # Trackio keeps on this machine what a server does not take.
    lost = rf'{logger}: \d+ of \d+ records are lost: it did not answer|have been saved locally'
    assert re.search(lost, shown), shown[-3000:]
    assert seconds < alone + 60


@contextlib.contextmanager
def dying_wandb():
    """A stand-in of wandb's server that accepts a run and is gone with the first figures: its address."""
    bucket = {
        'id': 'UnVu',
        'name': 'run',
        'config': '{}',
        'historyLineCount': 0,
        'project': {'id': 'UHJv', 'name': 'mine', 'entity': {'id': 'RW50', 'name': 'me'}},
    }
    died = threading.Event()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers['Content-Length'] or 0))
            if 'file_stream' in self.path or died.is_set():
                if not died.is_set():
                    died.set()
                    server.socket.close()
                self.close_connection = True
                return
            data = {}
            if b'upsertBucket' in content:
                data = {'upsertBucket': {'bucket': bucket, 'inserted': True}}
            answer = json.dumps({'data': data}).encode()
            self.send_response(200)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answers)
    server.handle_error = lambda *_: None

    def serve() -> None:
        with contextlib.suppress(OSError, ValueError):  # of a socket that is closed
            server.serve_forever(poll_interval=0.05)

    threading.Thread(target=serve, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    assert died.is_set(), 'no figures came'


def test_wandb_whose_server_dies_in_the_middle(run):
    pytest.importorskip('wandb')
    plain, _, alone = run('plain')
    with dying_wandb() as address:
        variables = {'WANDB_BASE_URL': address, 'WANDB_API_KEY': 'x' * 40}
        work_dir, shown, seconds = run('logged', 'wandb', **variables)
    require_same(plain, work_dir)
    assert 'Traceback' not in shown
    assert 'records are lost' in shown, shown[-3000:]
    assert seconds < alone + 60


def test_of_several_processes_the_first_one_logs(run):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, _, _ = run('plain', count=2)
    work_dir, shown, _ = run('logged', 'tensorboard', count=2)
    require_same(plain, work_dir)
    assert 'lost' not in shown
    (folder,) = (work_dir / 'loggers' / 'tensorboard').iterdir()
    assert len(list(folder.iterdir())) == 1
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [one.step for one in events.Scalars('train/loss')] == [1, 2]
    assert [one.step for one in events.Scalars('val/mIoU')] == [2]


def test_of_several_processes_none_waits_for_a_service_that_hangs(run):
    pytest.importorskip('mlflow')
    plain, _, alone = run('plain', count=2)
    with silent_server() as address:
        work_dir, shown, seconds = run('logged', 'mlflow', count=2, MLFLOW_TRACKING_URI=address)
    require_same(plain, work_dir)
    assert re.search(r'mlflow: \d+ of \d+ records are lost', shown)
    assert seconds < alone + 60
