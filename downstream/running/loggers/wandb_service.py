"""Weights & Biases."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS

from .background import BackgroundLogger
from .service import PROJECT, RunFacts, Service


class WandbService(Service):
    """A run of Weights & Biases; without an API key or a server that answers, files for ``wandb sync``.

    Args:
        project: Where the run goes; None: ``WANDB_PROJECT``, or a name of this suite.
        timeout: Seconds in which the server must accept the run.
        options: Others of ``wandb.init``.
    """

    title = 'wandb'

    def __init__(self, project: str | None = None, timeout: float = 60.0, **options: Any) -> None:
        self.project, self.timeout, self.options = project, timeout, options

    def open(self, run: RunFacts) -> str:
        import wandb

        self._wandb, identity = wandb, run.former or uuid.uuid4().hex
        arguments: dict[str, Any] = dict(
            project=self.project or os.environ.get('WANDB_PROJECT') or PROJECT,
            name=None if run.former else run.name,
            id=identity,
            resume='allow',
            dir=str(run.folder),
            config=None if run.former else dict(run.settings),
            settings=wandb.Settings(
                # The terminal is the run's, and no prompt may wait for a key.
                console='off',
                silent=True,
                disable_git=True,
                save_code=False,
                init_timeout=self.timeout,
            ),
        )
        arguments |= self.options
        mode = str(arguments.pop('mode', None) or os.environ.get('WANDB_MODE') or 'online')
        if mode not in ('online', 'shared'):
            self._run = wandb.init(**arguments | {'mode': mode})
        elif why := self._try_online(arguments):
            self._run = wandb.init(mode='offline', **arguments)
            folder = os.path.dirname(self._run.dir)
            print_log(
                f'wandb: {why}; the run is recorded in files: wandb sync {folder}',
                'current',
                logging.WARNING,
            )
        # Steps of their own would be refused where a resumed run goes back to its checkpoint.
        self._run.define_metric('*', step_metric='iteration')
        return identity

    def _try_online(self, arguments: Mapping[str, Any]) -> str | None:
        """Begin the run on the server; otherwise the reason why there is none."""
        if not self._wandb.login(prompt=False, verify=False):
            return 'no API key (wandb login, or WANDB_API_KEY)'
        try:
            self._run = self._wandb.init(mode='online', **arguments)
        except Exception as error:
            # The run's id stays in use in wandb's own process otherwise.
            self._wandb.teardown()
            return f'the server does not accept the run ({" ".join(str(error).split())[:200]})'
        return None

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log({**values, 'iteration': iteration})

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        self._run.log({name: self._wandb.Image(image), 'iteration': iteration})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


@VISBACKENDS.register_module()
class WandbLogger(BackgroundLogger):
    """Records a run for Weights & Biases."""

    service = WandbService
