"""Pictures of a pre-training while it runs: what the model makes of hidden cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import DataError
from downstream.atomic import atomic
from downstream.data.pictures.seen import BatchPictures
from downstream.distributed.wrapping import unwrapped
from downstream.drawing import beside, file_content
from downstream.running.loggers.hook import background_loggers

from .data import UnlabelledImages
from .fcmae import FCMAE

FOLDER = 'reconstructions'
_TITLES = ('original', 'visible cells', 'completed')


@HOOKS.register_module()
class ReconstructionPicturesHook(Hook):
    """Draws images, their visible cells, and these with what the model predicts in the hidden ones.

    The same images with the same cells every time, one JPEG of all into ``reconstructions`` in the work
    dir, and to the loggers. A predicted patch is shown with the mean and the deviation of the real one,
    which the model does not predict. No random number of the run changes.

    Args:
        interval: Epochs from one picture to the next; there is one at the end in any case.
        images: How many, spread over the data set.
        seed: Of the hidden cells.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 20, images: int = 8, seed: int = 0) -> None:
        self.interval, self.images, self.seed = interval, images, seed
        self._drawn = -1

    def after_train_epoch(self, runner) -> None:
        if self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)

    def after_train(self, runner) -> None:
        self._draw(runner, runner.epoch)

    def _draw(self, runner, epoch: int) -> None:
        if epoch == self._drawn or not self.images:
            return
        self._drawn = epoch
        # All processes: the parts of a sharded model are put together.
        picture = self.picture(_fcmae(runner), runner.train_dataloader.dataset)
        if picture is None or not is_main_process():
            return
        with atomic(Path(runner.work_dir, FOLDER, f'epoch_{epoch:04d}.jpg'), 'wb') as file:
            file.write(file_content(picture))
        for logger in background_loggers(runner.visualizer):
            logger.add_image(FOLDER, picture[..., ::-1], runner.iter)

    def picture(self, model: FCMAE, dataset: UnlabelledImages) -> np.ndarray | None:
        """A row for each image, BGR ``(H, W, 3)`` of uint8; None if none can be read.

        Args:
            model: In training or evaluation mode, which it keeps.
            dataset: Where the images come from.
        """
        samples = []
        for index in np.unique(np.linspace(0, len(dataset) - 1, self.images).astype(int)):
            try:
                samples.append(centred(dataset, int(index)))
            except DataError:
                continue  # whoever trains on it says so
        if not samples:
            return None
        batch = {key: [sample[key] for sample in samples] for key in samples[0]}
        inputs = model.data_preprocessor(batch)['inputs']
        former = model.training
        model.eval()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                with torch.no_grad():
                    found = model(inputs, mode='predict')
        finally:
            model.train(former)
        pictures = BatchPictures(dataset, model.data_preprocessor)
        rows = [[pictures.shown(image) for image in row] for row in zip(inputs, *found)]
        return np.vstack([beside(rows[0], _TITLES), *(np.hstack(row) for row in rows[1:])])


def _fcmae(runner: Runner) -> FCMAE:
    model = unwrapped(runner.model)
    assert isinstance(model, FCMAE)
    return model


def centred(dataset: UnlabelledImages, index: int) -> dict:
    """A sample of a data set without what is random in its pipeline."""
    results = dataset.get_data_info(index)
    for step in dataset.pipeline.transforms:
        results = step.centred(results) if hasattr(step, 'centred') else step(results)
    return results
