"""Loggers: what they record, what they survive, and that nothing waits for them."""

import json
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from backbones.errors import ConfigError
from downstream.running.loggers import background
from downstream.running.loggers.background import BackgroundLogger
from downstream.running.loggers.hook import per_class_figures
from downstream.running.loggers.mlflow_service import mlflow_name
from downstream.running.loggers.service import RunFacts, Service
from downstream.running.loggers.worker import Worker
from downstream.running.options import overrides
from downstream.running.options.log_to import LOGGERS, add_loggers, drop_loggers
from tests.conftest import ROOT

PICTURE = np.full((6, 8, 3), 200, np.uint8)


class Kept(Service):
    """Keeps what it gets; fails, or never answers, where it is told to."""

    title = 'kept'

    def __init__(self, fails: int = 0, hangs: threading.Event | None = None) -> None:
        self.fails, self.hangs = fails, hangs
        self.calls, self.runs = [], []

    def _may_fail(self) -> None:
        if self.hangs is not None:
            self.hangs.wait(60)
        if self.fails:
            self.fails -= 1
            raise ConnectionError('no route')

    def open(self, run: RunFacts) -> str:
        self._may_fail()
        self.runs.append(run)
        return run.former or 'number 7'

    def scalars(self, values, iteration) -> None:
        self._may_fail()
        self.calls.append((dict(values), iteration))

    def picture(self, name, image, iteration) -> None:
        self.calls.append((name, image.shape, iteration))

    def close(self, failed) -> None:
        self.calls.append(('closed', failed))


class KeptLogger(BackgroundLogger):
    service = Kept


def quick_worker(open_=lambda: None, **options) -> tuple[Worker, list]:
    errors = []
    return Worker('test', open_, errors.append, pauses=(0.01, 0.01), **options), errors


def wait_until(condition, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def said(monkeypatch):
    """Warnings of loggers."""
    lines = []
    monkeypatch.setattr(background, 'print_log', lambda text, logger, level: lines.append(text))
    return lines


class TestWorker:
    def test_calls_are_made_in_order_and_the_last_one_at_the_end(self):
        made = []
        worker, _ = quick_worker()
        for number in range(20):
            worker.submit(lambda number=number: made.append(number))
        worker.stop(lambda: made.append('end'))
        worker.submit(lambda: made.append('too late'))
        assert worker.join(5)
        assert made == [*range(20), 'end']
        assert worker.lost == 1

    def test_a_call_that_fails_is_repeated_and_loses_nothing(self):
        made, failures = [], iter([OSError('a'), OSError('b')])

        def call():
            for error in failures:
                raise error
            made.append(1)

        worker, errors = quick_worker()
        worker.submit(call)
        wait_until(lambda: made)
        worker.stop(lambda: None)
        assert worker.join(5)
        assert made == [1]
        assert worker.lost == 0
        assert [str(error) for error in errors] == ['a']  # said once

    def test_a_call_that_is_refused_is_not_repeated(self):
        tried = []

        def call():
            tried.append(1)
            raise ValueError('never')

        worker, _ = quick_worker(is_permanent=lambda error: isinstance(error, ValueError))
        worker.submit(call)
        wait_until(lambda: tried)
        time.sleep(0.1)
        worker.stop(lambda: None)
        assert worker.join(5)
        assert len(tried) == 1
        assert worker.lost == 1

    def test_calls_that_wait_are_bounded(self):
        gate, made = threading.Event(), []
        worker, _ = quick_worker(gate.wait, most=10, most_large=2)
        for number in range(5):
            worker.submit(lambda number=number: made.append(number), large=True)
        for number in range(100, 120):
            worker.submit(lambda number=number: made.append(number))
        gate.set()
        worker.stop(lambda: None)
        assert worker.join(5)
        assert made == [0, 1, *range(100, 108)]
        assert worker.lost == 3 + 12

    def test_opening_is_tried_until_it_succeeds(self):
        failures, made = iter([OSError()] * 6), []

        def open_():
            for error in failures:
                raise error

        worker, errors = quick_worker(open_)
        worker.submit(lambda: made.append(1))
        wait_until(lambda: made)
        worker.stop(lambda: None)
        assert worker.join(5)
        assert made == [1]
        assert len(errors) == 1

    def test_a_call_that_hangs_is_left_alone(self):
        gate, made = threading.Event(), []
        worker, _ = quick_worker(gate.wait)
        start = time.monotonic()
        for _ in range(1000):
            worker.submit(lambda: made.append(1))
        worker.stop(lambda: made.append('end'))
        assert time.monotonic() - start < 1
        assert not worker.join(0.2)
        assert worker.lost == 1001
        gate.set()
        assert worker.join(5)
        assert not made
        assert worker.lost == 1001


class TestBackgroundLogger:
    def test_lines_of_the_log_have_a_part_and_an_iteration(self, tmp_path, said):
        logger = KeptLogger(str(tmp_path))
        logger.add_scalars({'loss': 9.0, 'iter': 1})  # before the beginning
        logger.add_config(Config({'a': {'b': [1, 2]}, 'c': 0.5}))
        done = 0
        logger.begin(tmp_path, lambda: done)
        logger.add_scalars({'loss': np.float32(0.5), 'lr': 1e-3, 'iter': 50, 'task': 'x'}, step=50)
        done = 100
        logger.add_scalars({'coco/bbox_mAP': 0.25, 'val/time': 2, 'nothing': None}, step=1)
        logger.add_image('val/1', PICTURE)
        logger.add_image('big', np.zeros((3000, 1500, 3), np.uint8))
        logger.close()
        assert logger.experiment.calls == [
            ({'train/loss': 0.5, 'train/lr': 1e-3}, 50),
            ({'val/coco/bbox_mAP': 0.25, 'val/time': 2.0}, 100),
            ('val/1', PICTURE.shape, 100),
            ('big', (1024, 512, 3), 100),
            ('closed', False),
        ]
        (run,) = logger.experiment.runs
        assert run.settings == {'a.b': '[1, 2]', 'c': 0.5}
        assert 'b=[' in run.config
        assert run.former is None
        assert not said

    def test_a_resumed_run_goes_on_and_a_new_one_does_not(self, tmp_path):
        formers = []
        for done in (0, 30, 0):
            logger = KeptLogger(str(tmp_path))
            logger.begin(tmp_path, lambda done=done: done)
            logger.close()
            formers.append(logger.experiment.runs[0].former)
        assert formers == [None, 'number 7', None]
        state = tmp_path / 'loggers' / 'kept.json'
        assert json.loads(state.read_text()) == {'run': 'number 7'}

    @pytest.mark.parametrize('text', ['', '{"run"', '[]', '{}'])
    def test_a_damaged_state_begins_a_new_run(self, text, tmp_path):
        (tmp_path / 'loggers').mkdir()
        (tmp_path / 'loggers' / 'kept.json').write_text(text)
        logger = KeptLogger(str(tmp_path))
        logger.begin(tmp_path, lambda: 30)
        logger.close()
        assert logger.experiment.runs[0].former is None

    def test_a_service_that_never_answers(self, tmp_path, said):
        gate = threading.Event()
        logger = KeptLogger(str(tmp_path), wait=0.3, hangs=gate)
        start = time.monotonic()
        logger.begin(tmp_path, lambda: 0)
        for step in range(500):
            logger.add_scalars({'loss': 1.0, 'iter': step})
        assert time.monotonic() - start < 1
        logger.close()
        assert time.monotonic() - start < 2
        logger.close()
        gate.set()
        assert said == ['kept: 501 of 501 records are lost: it did not answer within 0.3 s.']

    def test_a_service_that_fails(self, tmp_path, said):
        logger = KeptLogger(str(tmp_path), fails=10**9)
        logger.begin(tmp_path, lambda: 0)
        for step in range(5):
            logger.add_scalars({'loss': 1.0, 'iter': step})
        logger.stop(failed=True)
        logger.close()
        assert len(said) == 2
        assert 'training goes on: ConnectionError: no route' in said[0]
        assert said[1] == 'kept: 6 of 6 records are lost.'


class TestChoice:
    def config(self) -> Config:
        return Config(
            dict(visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]))
        )

    def test_names_become_back_ends_once(self, monkeypatch):
        monkeypatch.setattr(overrides, 'is_installed', lambda name: True)
        cfg = self.config()
        add_loggers(cfg, ['tensorboard', 'wandb', 'wandb'])
        add_loggers(cfg, ['tensorboard'])
        types = [one['type'] for one in cfg.visualizer.vis_backends]
        assert types == ['LocalVisBackend', 'TensorboardLogger', 'WandbLogger']
        drop_loggers(cfg)
        assert [one['type'] for one in cfg.visualizer.vis_backends] == ['LocalVisBackend']

    def test_the_command_line_has_all_of_them(self):
        source = (ROOT / 'downstream' / 'commands' / 'line.py').read_text()
        listed = re.search(r"'--log-to',.*?choices=\[(.*?)\]", source, re.S).group(1)
        assert [word.strip(" '") for word in listed.split(',')] == list(LOGGERS)
        assert all(kind in VISBACKENDS and kind in overrides._BACKENDS for kind in LOGGERS.values())

    @pytest.mark.parametrize('name', LOGGERS)
    def test_a_missing_package_is_named(self, name, monkeypatch):
        monkeypatch.setattr(overrides, 'is_installed', lambda package: False)
        with pytest.raises(ConfigError, match=f'needs {name}, .* pip install {name}'):
            add_loggers(self.config(), [name])

    def test_the_drivers_of_mlflow_are_named(self, monkeypatch):
        from downstream.running.options import log_to

        monkeypatch.setattr(overrides, 'is_installed', lambda package: True)
        monkeypatch.setattr(log_to, 'is_installed', lambda package: package != 'alembic')
        monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
        with pytest.raises(ConfigError, match='needs alembic, .* pip install alembic'):
            add_loggers(self.config(), ['mlflow'])
        monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:1')
        add_loggers(self.config(), ['mlflow'])

    def test_an_unknown_name(self, tool):
        result = tool('train', 'config.py', '--log-to', 'paper')
        assert result.code == 2
        assert "invalid choice: 'paper'" in result.err

    def test_a_folder_is_no_package(self, tmp_path, monkeypatch):
        (tmp_path / 'no_such_logger').mkdir()
        monkeypatch.syspath_prepend(str(tmp_path))
        assert not overrides.is_installed('no_such_logger')
        assert not overrides.is_installed('no_such_package')
        assert overrides.is_installed('mmengine')


def test_figures_of_classes():
    detection = {'bbox': {'AP': 0.5, 'per_class': {'a b': 0.4, 'c': None}}}
    assert per_class_figures(detection) == {'val_per_class/bbox/AP/a b': 0.4}  # none is no number
    segmentation = {'mIoU': 50.0, 'per_class': {'sky': {'IoU': 1.5, 'Acc': 2.5}}}
    assert per_class_figures(segmentation) == {
        'val_per_class/IoU/sky': 1.5,
        'val_per_class/Acc/sky': 2.5,
    }
    assert per_class_figures({}) == {}


def test_names_for_mlflow():
    assert mlflow_name('val_per_class/IoU/tree (all), 5%') == 'val_per_class/IoU/tree _all__ 5_'
    assert len(mlflow_name('x' * 300)) == 250


def test_a_run_that_fails_says_so(tmp_path):
    from downstream.running.loggers.hook import LoggersHook

    logger = KeptLogger(str(tmp_path))
    hook = LoggersHook([logger])
    hook.before_train(SimpleNamespace(work_dir=str(tmp_path), iter=0))
    hook.close()
    assert logger.experiment.calls == [('closed', True)]
