"""Loggers with the packages that they need, each on this machine; what is not installed skips."""

import json
import logging
import socket
import time

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from downstream.running.loggers import background
from downstream.running.loggers.background import BackgroundLogger
from downstream.running.options.log_to import LOGGERS
from tests.conftest import write_tiny_config

PICTURE = np.full((6, 8, 3), 200, np.uint8)


@pytest.fixture
def said(monkeypatch):
    """Warnings of loggers."""
    lines = []
    monkeypatch.setattr(background, 'print_log', lambda text, logger, level: lines.append(text))
    return lines


def record(logger: BackgroundLogger, work_dir, done: int, losses: dict[int, float]) -> None:
    """A run, from iteration ``done`` on."""
    logger.wait = 120
    logger.add_config(Config({'optim_wrapper': {'lr': 0.1}, 'note': 'x' * 7000}))
    logger.begin(work_dir, lambda: done)
    for step, loss in losses.items():
        logger.add_scalars({'loss': loss, 'iter': step})
    logger.record({'val/ä(b)': float('nan')}, max(losses))
    logger.add_image('val/1', PICTURE)
    logger.close()


def record_twice(kind: str, work_dir, **options) -> None:
    """A run of four steps, and its resumption after the second one."""
    build = lambda: VISBACKENDS.build(dict(type=LOGGERS[kind], save_dir=str(work_dir), **options))  # noqa: E731
    record(build(), work_dir, 0, {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6})
    record(build(), work_dir, 2, {3: 0.5, 4: 0.4})


def test_tensorboard_goes_on_in_the_same_folder(tmp_path, said):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record_twice('tensorboard', tmp_path)
    (folder,) = (tmp_path / 'loggers' / 'tensorboard').iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = [(one.step, round(one.value, 4)) for one in events.Scalars('train/loss')]
    assert losses == [(1, 0.9), (2, 0.8), (3, 0.5), (4, 0.4)]
    picture = events.Images('val/1')[-1]
    assert (picture.height, picture.width) == PICTURE.shape[:2]
    (text,) = events.Tensors('config/text_summary')
    assert b'lr=0.1' in text.tensor_proto.string_val[0]
    assert not said


def read_mlflow(uri: str):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == 'mine']
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def check_mlflow(uri: str) -> None:
    client, run = read_mlflow(uri)
    history = client.get_metric_history(run.info.run_id, 'train/loss')
    assert sorted((m.step, m.value) for m in history) == [
        (1, 0.9), (2, 0.8), (3, 0.5), (3, 0.7), (4, 0.4), (4, 0.6),
    ]  # fmt: skip
    assert 'val/ä_b_' in run.data.metrics
    assert run.info.status == 'FINISHED'
    assert run.data.params['optim_wrapper.lr'] == '0.1'
    assert len(run.data.params['note']) == 6000
    names = {file.path for file in client.list_artifacts(run.info.run_id, 'val')}
    assert names == {'val/1_00000000.png', 'val/1_00000002.png'}


def test_mlflow_in_files(tmp_path, said, monkeypatch):
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    uri = (tmp_path / 'store').as_uri()
    record_twice('mlflow', tmp_path, tracking_uri=uri, experiment='mine')
    check_mlflow(uri)
    assert not said


@pytest.mark.slow
def test_mlflow_in_the_work_dir(tmp_path, said, monkeypatch):
    for name in ('mlflow', 'sqlalchemy', 'alembic'):
        pytest.importorskip(name)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    handler = logging.FileHandler(tmp_path / 'run.log', 'w')
    logging.getLogger('a_run').addHandler(handler)
    record_twice('mlflow', tmp_path, experiment='mine')
    check_mlflow(f'sqlite:///{tmp_path}/loggers/mlflow.db')
    # Migrations of a data base may configure logging anew, and close the files of others.
    logging.getLogger('a_run').error('still open')
    logging.getLogger('a_run').removeHandler(handler)
    handler.close()
    assert (tmp_path / 'run.log').read_text() == 'still open\n'
    assert not said


@pytest.mark.parametrize('answers', ['never', 'not at all'])
def test_a_server_that_does_not_answer(answers, tmp_path, said, monkeypatch):
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_TIMEOUT', '2')
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '0')
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if answers == 'never':
            server.listen(5)
        uri = f'http://127.0.0.1:{server.getsockname()[1]}'
        logger = VISBACKENDS.build(
            dict(type='MLflowLogger', save_dir=str(tmp_path), wait=1.0, tracking_uri=uri)
        )
        start = time.monotonic()
        logger.begin(tmp_path, lambda: 0)
        for step in range(1, 201):
            logger.add_scalars({'loss': 1.0, 'iter': step})
        recorded = time.monotonic() - start
        logger.close()
        closed = time.monotonic() - start
    assert recorded < 2
    assert closed < 6
    # The connection ends with the server, which the thread that waits may say, too.
    assert any('201 of 201 records are lost' in line for line in said)


@pytest.fixture
def wandb():
    """What wandb remembers of a process is forgotten."""
    module = pytest.importorskip('wandb')
    module.teardown()
    yield module
    module.teardown()


@pytest.mark.slow
def test_wandb_without_a_network(wandb, tmp_path, said, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    record_twice('wandb', tmp_path, project='mine')
    name = json.loads((tmp_path / 'loggers' / 'wandb.json').read_text())['run']
    files = sorted((tmp_path / 'loggers' / 'wandb').glob('offline-run-*/*.wandb'))
    assert [file.name for file in files] == [f'run-{name}.wandb'] * len(files)
    assert files
    assert all(b'train/loss' in file.read_bytes() for file in files)
    assert not said


@pytest.mark.slow
def test_wandb_whose_server_never_answers(wandb, tmp_path, said, monkeypatch):
    from downstream.running.loggers import wandb_service

    monkeypatch.setattr(wandb_service, 'print_log', lambda text, *rest: said.append(text))
    monkeypatch.delenv('WANDB_MODE', raising=False)
    monkeypatch.setenv('WANDB_API_KEY', 'x' * 40)
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen(5)
        monkeypatch.setenv('WANDB_BASE_URL', f'http://127.0.0.1:{server.getsockname()[1]}')
        logger = VISBACKENDS.build(dict(type='WandbLogger', save_dir=str(tmp_path), timeout=3.0))
        record(logger, tmp_path, 0, {1: 0.5})
    (line,) = said
    assert 'the server does not accept the run' in line
    assert 'wandb sync' in line
    (file,) = (tmp_path / 'loggers' / 'wandb').glob('offline-run-*/*.wandb')
    assert b'train/loss' in file.read_bytes()


def test_trackio_on_this_machine(tmp_path, said, monkeypatch):
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
    pytest.importorskip('trackio')
    import sqlite3

    record_twice('trackio', tmp_path, project='mine')
    with sqlite3.connect(tmp_path / 'trackio' / 'mine.db') as base:
        rows = list(base.execute('select run_name, step, metrics from metrics'))
    assert len({name for name, _, _ in rows}) == 1
    losses = {(step, json.loads(text).get('train/loss')) for _, step, text in rows}
    assert losses - {(0, None), (2, None), (4, None)} == {
        (1, 0.9), (2, 0.8), (3, 0.5), (3, 0.7), (4, 0.4), (4, 0.6),
    }  # fmt: skip
    assert not said


def test_a_training_and_its_resumption(tool, shapes, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, work_dir = write_tiny_config('segmentation', shapes, tmp_path), tmp_path / 'run'
    words = ('train', config, '--work-dir', work_dir, '--log-to', 'tensorboard')
    logged = 'default_hooks.logger.interval=1'
    assert tool(*words, '--cfg-options', logged).code == 0
    result = tool(
        *words,
        '--resume',
        '--cfg-options',
        logged,
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=2',
    )
    assert result.code == 0
    (folder,) = (work_dir / 'loggers' / 'tensorboard').iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    steps = {name: [one.step for one in events.Scalars(name)] for name in events.Tags()['scalars']}
    assert steps['train/loss'] == steps['train/lr'] == [1, 2, 3, 4]
    assert steps['val/mIoU'] == steps['val_per_class/IoU/square'] == [2, 4]
    pictures = events.Tags()['images']
    assert {'first_batches/001_01', 'val/1', 'val/2', 'val/3'} <= set(pictures)
    assert 'config/text_summary' in events.Tags()['tensors']
    # A test of the same config records nothing.
    code = tool(
        'test', work_dir / 'segmentation.py', work_dir / 'iter_4.pth', '--work-dir', work_dir
    ).code
    assert code == 0
    assert len(list((work_dir / 'loggers' / 'tensorboard').iterdir())) == 1
