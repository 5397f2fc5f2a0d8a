"""Pictures of what a model sees in its first training steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.hooks import RemovableHandle

from downstream.data.pictures.seen import BatchPictures
from downstream.distributed.wrapping import unwrapped
from downstream.drawing import file_content

FOLDER = 'first_batches'


@HOOKS.register_module()
class FirstBatchesHook(Hook):
    """Draws the first batches of a training into ``first_batches`` beside the run's log.

    The pictures are of the tensors that the model gets, after augmentation, normalisation undone, with
    boxes, masks or label maps: what is wrong with data shows there before a run has cost anything. No
    figure of the run changes; a batch that cannot be drawn is said, and the run goes on. Under
    ``compile`` a copy of the preprocessor makes them, of a copy of the batch and with the same random
    numbers.

    Args:
        batches: How many batches are drawn; 0: none.
        images: Of each batch at most.

    Attributes:
        written: The pictures of this training so far.
    """

    priority = 'VERY_LOW'

    def __init__(self, batches: int = 2, images: int = 8) -> None:
        self.batches = batches
        self.images = images
        self.written: list[Path] = []
        self._drawn = 0
        self._pictures: BatchPictures  # of the training that has begun
        self._handle: RemovableHandle | None = None  # of a preprocessor that runs as it is
        self._compiled: nn.Module | None = None  # one that is part of a compiled step

    def before_train(self, runner: Runner) -> None:
        preprocessor = getattr(unwrapped(runner.model), 'data_preprocessor', None)
        self._drawn, self.written, self._compiled = 0, [], None
        if not (self.batches and isinstance(preprocessor, nn.Module)):
            return
        self._pictures = BatchPictures(runner.train_dataloader.dataset, preprocessor)
        if runner.cfg.get('compile'):
            # The compiler would trace the drawing, and cannot.
            self._compiled = preprocessor
        elif is_main_process():
            self._handle = preprocessor.register_forward_hook(
                lambda module, given, batch: self._draw(runner, batch)
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self._compiled is None or self._drawn >= self.batches:
            return
        # All processes: a preprocessor may have them agree on a size.
        with same_random_numbers_afterwards(), torch.no_grad():
            batch = deepcopy(self._compiled)(deepcopy(data_batch), training=True)
        if is_main_process():
            self._draw(runner, batch)
        else:
            self._drawn += 1

    def _draw(self, runner: Runner, batch: dict) -> None:
        self._drawn += 1
        folder = Path(runner.log_dir, FOLDER)
        try:
            self.written += write_batch(self._pictures, batch, folder, self._drawn, self.images)
        except Exception as error:
            runner.logger.warning(
                f'{FOLDER}: a batch could not be drawn: {type(error).__name__}: {error}'
            )
            self._drawn = self.batches
        if self._drawn >= self.batches:
            self._remove()

    def before_val(self, runner: Runner) -> None:
        self._remove()  # of a training that is shorter than ``batches``

    def after_train(self, runner: Runner) -> None:
        self._remove()

    def _remove(self) -> None:
        self._compiled = None
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@contextmanager
def same_random_numbers_afterwards() -> Iterator[None]:
    """Let what is computed here draw no random number from what comes after it."""
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)


def write_batch(
    pictures: BatchPictures, batch: dict, folder: Path, number: int, most: int
) -> list[Path]:
    """Write pictures of the first images of a batch: ``<number>_<place>.jpg``, both counted from 1.

    Args:
        pictures: Draws them.
        batch: What the preprocessor returned.
        folder: Is made where it is missing.
        number: Of the batch.
        most: Images.

    Returns:
        The files.
    """
    few = {key: batch[key][:most] for key in ('inputs', 'data_samples')}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, picture in enumerate(pictures.draw(few), 1):
        written.append(folder / f'{number:03d}_{place:02d}.jpg')
        written[-1].write_bytes(file_content(picture))
    return written
