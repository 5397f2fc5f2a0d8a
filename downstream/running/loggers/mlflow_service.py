"""MLflow: a tracking server, or a database in the work dir."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping

import numpy as np
from mmengine.registry import VISBACKENDS

from .background import BackgroundLogger
from .service import PROJECT, RunFacts, Service

# MLflow's limits of one request and of one value.
_PARAMS_A_CALL, _METRICS_A_CALL, _VALUE_LENGTH = 100, 1000, 6000
_REFUSED = {'BAD_REQUEST', 'INVALID_PARAMETER_VALUE'}


class MLflowService(Service):
    """A run of MLflow.

    Args:
        tracking_uri: The server or store; None: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the work
            dir's folder of loggers.
        experiment: Where the run goes; None: ``MLFLOW_EXPERIMENT_NAME``, or a name of this suite.
    """

    title = 'mlflow'

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        self.tracking_uri = tracking_uri or os.environ.get('MLFLOW_TRACKING_URI')
        self.experiment = experiment or os.environ.get('MLFLOW_EXPERIMENT_NAME') or PROJECT
        self._run, self._is_described = '', False

    def open(self, run: RunFacts) -> str:
        # Trying again is the caller's; MLflow's own attempts take minutes before they say anything.
        os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')
        os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '30')
        from mlflow import MlflowClient

        # It reports every migration of a new data base on the terminal.
        logging.getLogger('mlflow').setLevel(logging.WARNING)
        uri = self.tracking_uri or f'sqlite:///{run.folder / "mlflow.db"}'
        # Not mlflow's functions, whose run and server are those of the whole process.
        self._client = MlflowClient(tracking_uri=uri)
        if not self._run and self._has(run.former):
            self._run, self._is_described = str(run.former), True
        self._run = self._run or self._create(run)
        if not self._is_described:
            self._describe(run)
            self._is_described = True
        return self._run

    def _has(self, former: str | None) -> bool:
        """Whether the store has the run that is resumed, which then goes on."""
        from mlflow.exceptions import MlflowException

        if former is None:
            return False
        try:
            self._client.update_run(former, status='RUNNING')
        except MlflowException as error:
            if error.error_code != 'RESOURCE_DOES_NOT_EXIST':
                raise
            return False
        return True

    def _create(self, run: RunFacts) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            experiment = found.experiment_id
        else:
            artifacts = None if self.tracking_uri else str(run.folder / 'mlflow')
            experiment = self._client.create_experiment(self.experiment, artifacts)
        return self._client.create_run(experiment, run_name=run.name).info.run_id

    def _describe(self, run: RunFacts) -> None:
        from mlflow.entities import Param

        params = [
            Param(mlflow_name(key), str(value)[:_VALUE_LENGTH])
            for key, value in run.settings.items()
        ]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self._client.log_batch(self._run, params=params[start : start + _PARAMS_A_CALL])
        self._client.log_text(self._run, run.config, 'config.py')

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [
            Metric(mlflow_name(name), value, now, iteration) for name, value in values.items()
        ]
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self._run, metrics[start : start + _METRICS_A_CALL])

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        self._client.log_image(
            self._run, image, artifact_file=f'{mlflow_name(name)}_{iteration:08d}.png'
        )

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, 'FAILED' if failed else 'FINISHED')

    def is_permanent(self, error: Exception) -> bool:
        return super().is_permanent(error) or getattr(error, 'error_code', None) in _REFUSED


def mlflow_name(name: str) -> str:
    """``name`` with the characters alone that MLflow accepts in names, at most 250 of them."""
    return re.sub(r'[^\w\-. /]', '_', name)[:250]


@VISBACKENDS.register_module()
class MLflowLogger(BackgroundLogger):
    """Records a run for MLflow."""

    service = MLflowService
