"""TensorBoard: event files in the work dir."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mmengine.registry import VISBACKENDS

from .background import BackgroundLogger
from .service import RunFacts, Service


class TensorboardService(Service):
    """Event files in ``<work dir>/loggers/tensorboard/<run>``.

    A resumed run writes into the same folder; what was written after its checkpoint is hidden.
    """

    title = 'tensorboard'

    def open(self, run: RunFacts) -> str:
        from torch.utils.tensorboard import SummaryWriter

        name = run.former or run.name
        purge = run.iteration + 1 if run.former else None
        self._writer = SummaryWriter(
            str(run.folder / self.title / name), purge_step=purge, flush_secs=10
        )
        if run.former is None:
            indented = '\n'.join(f'    {line}' for line in run.config.splitlines())
            self._writer.add_text('config', indented, 0)
        return name

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        self._writer.add_image(name, image, iteration, dataformats='HWC')

    def close(self, failed: bool) -> None:
        self._writer.close()


@VISBACKENDS.register_module()
class TensorboardLogger(BackgroundLogger):
    """Records a run for TensorBoard."""

    service = TensorboardService
