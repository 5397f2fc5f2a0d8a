"""A visualizer's back end that hands figures, pictures and the config to a service in the background."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import BaseVisBackend

from backbones.upstream import required
from downstream.running.checkpoint.files import write_text

from .service import RunFacts, Service, flat_settings
from .worker import Worker

required('mmengine.visualization.BaseVisBackend._init_env')  # which is overridden

FOLDER = 'loggers'
# Pictures are made smaller for a service; those in the work dir keep their size.
_LONGEST_SIDE = 1024


class BackgroundLogger(BaseVisBackend):
    """Records a training in a service, by one thread; a service that fails or hangs never stops a run.

    Calls wait in a bounded queue. What is lost is logged once, at the end. Nothing is recorded before
    :meth:`begin`, so a test records nothing. The run's name in the service is kept in
    ``<work dir>/loggers/<service>.json``, where a resumed run finds it.

    Args:
        save_dir: Of the visualizer; its run's work dir is that of the config.
        wait: Seconds for which the end of a run waits for the service at most.
        options: Those of the service.
    """

    service: ClassVar[type[Service]]

    def __init__(self, save_dir: str, wait: float = 20.0, **options: Any) -> None:
        super().__init__(save_dir)
        self.wait = wait
        self._service = self.service(**options)
        self._config = Config()
        self._worker: Worker | None = None
        self._until = math.inf
        self._position: Callable[[], int] = lambda: 0

    @property
    def experiment(self) -> Service:
        """The service."""
        return self._service

    def _init_env(self) -> None:
        """Nothing: see :meth:`begin`."""

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Remember the config, which the service gets when the run begins."""
        self._config = config

    def begin(self, work_dir: str | Path, position: Callable[[], int]) -> None:
        """Begin the run, or go on in the one that the work dir names; returns at once.

        Args:
            work_dir: Of the run.
            position: Returns how many iterations are done. If they are more than 0, the run is resumed.
        """
        folder, iteration = Path(work_dir).resolve() / FOLDER, position()
        state = folder / f'{self._service.title}.json'
        run = RunFacts(
            name=f'{folder.parent.name}-{time.strftime("%Y%m%d-%H%M%S")}',
            folder=folder,
            iteration=iteration,
            former=_former(state) if iteration else None,
            config=self._config.pretty_text,
            settings=flat_settings(self._config.to_dict()),
        )

        def open_service() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            called = self._service.open(run)
            write_text(state, json.dumps({'run': called}) + '\n')

        self._position, self._until = position, math.inf
        self._worker = Worker(
            f'logger {self._service.title}', open_service, self._say, self._service.is_permanent
        )

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Record the figures of a line of the log.

        mmengine counts validations of detectors in epochs; here all figures have the iteration.
        """
        if self._worker is None:
            return
        iteration = scalar_dict.get('iter')  # lines of training alone have it
        part = 'val' if iteration is None else 'train'
        values = {
            name if name.startswith(f'{part}/') else f'{part}/{name}': value
            for name, value in scalar_dict.items()
            if name not in ('iter', 'step')
        }
        self.record(values, iteration)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Record one figure."""
        self.record({name: value})

    def record(self, values: Mapping[str, Any], iteration: int | None = None) -> None:
        """Record figures, those that are numbers.

        Args:
            values: Name -> number.
            iteration: None: the present one.
        """
        numbers = {
            name: number for name, value in values.items() if (number := _number(value)) is not None
        }
        if self._worker is not None and numbers:
            at = self._position() if iteration is None else iteration
            self._worker.submit(partial(self._service.scalars, numbers, at))

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record a picture, RGB ``(H, W, 3)`` of uint8."""
        if self._worker is not None:
            factor = _LONGEST_SIDE / max(image.shape[:2])
            small = (
                cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
                if factor < 1
                else np.array(image)
            )
            self._worker.submit(
                partial(self._service.picture, name, small, self._position()), large=True
            )

    def stop(self, failed: bool = False) -> None:
        """Let the run end in the service, after what waits; returns at once.

        Args:
            failed: Whether an error or a signal ends the run.
        """
        if self._worker is not None:
            self._worker.stop(partial(self._service.close, failed))
            self._until = min(self._until, time.monotonic() + self.wait)

    def close(self) -> None:
        """End the run, wait for the service, and log what was lost; a second call does nothing."""
        if self._worker is None:
            return
        self.stop()
        worker, self._worker = self._worker, None
        in_time = worker.join(self._until - time.monotonic())
        if worker.lost:
            why = '' if in_time else f': it did not answer within {self.wait:g} s'
            print_log(
                f'{self._service.title}: {worker.lost} of {worker.submitted} records are lost{why}.',
                'current',
                logging.WARNING,
            )

    def _say(self, error: Exception) -> None:
        print_log(
            f'{self._service.title}: nothing can be recorded for now, training goes on: '
            f'{type(error).__name__}: {" ".join(str(error).split())[:300]}',
            'current',
            logging.WARNING,
        )


def _former(state: Path) -> str | None:
    """What the run that is resumed is called in its service, or None where it is unknown."""
    try:
        return str(json.loads(state.read_text())['run'])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
