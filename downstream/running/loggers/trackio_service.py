"""Trackio: a local data base, or a server of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.registry import VISBACKENDS

from .background import BackgroundLogger
from .service import PROJECT, RunFacts, Service


class TrackioService(Service):
    """A run of Trackio, where its own environment variables say; ``trackio show`` displays it.

    Args:
        project: Where the run goes; None: ``TRACKIO_PROJECT``, or a name of this suite.
        options: Others of ``trackio.init``.
    """

    title = 'trackio'

    def __init__(self, project: str | None = None, **options: Any) -> None:
        self.project, self.options = project, options

    def open(self, run: RunFacts) -> str:
        import trackio

        self._trackio, name = trackio, run.former or run.name
        arguments = dict(
            project=self.project or os.environ.get('TRACKIO_PROJECT') or PROJECT,
            name=name,
            config=dict(run.settings),
            resume='allow',
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._run = trackio.init(**{**arguments, **self.options})
        return name

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log(dict(values), step=iteration)

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        self._run.log({name: self._trackio.Image(image)}, step=iteration)

    def close(self, failed: bool) -> None:
        self._run.finish()


@VISBACKENDS.register_module()
class TrackioLogger(BackgroundLogger):
    """Records a run for Trackio."""

    service = TrackioService
