"""mmengine's training loops, exact on resume: with the same data and the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from .seeded_data import NumberedSampler, SkippingBatchSampler, seed_step


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """Resumes in the middle of an epoch with the batch that would have come next."""

    epoch_begin = 0
    batches_done = 0

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self.batches_done = self.batches_done, 0
        self.epoch_begin = self._iter - done
        self.dataloader.batch_sampler.skip_once(done)
        for index, batch in enumerate(self.dataloader, done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.epoch_begin = self._iter

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        seed_step(self.runner.seed, self._iter)
        super().run_iter(idx, data_batch)


class _Stream:
    """Endless batches; those of an interrupted run are skipped without loading them."""

    def __init__(self, dataloader) -> None:
        self.dataloader = dataloader
        self._iterator: Iterator[Sequence[dict]] | None = None
        self._round = 0

    def skip_iter(self, count: int) -> None:
        """Continue after the first ``count`` batches."""
        batches: SkippingBatchSampler = self.dataloader.batch_sampler
        sampler = batches.sampler
        assert isinstance(sampler, NumberedSampler)
        if hasattr(sampler.sampler, 'skip'):  # endless: one round
            batches.skip_once(count)
            return
        self._round, rest = divmod(count, len(batches))
        sampler.set_epoch(self._round)
        batches.skip_once(rest)

    def __next__(self) -> Sequence[dict]:
        if self._iterator is None:
            self._iterator = iter(self.dataloader)
        try:
            return next(self._iterator)
        except StopIteration:
            self._round += 1
            self.dataloader.batch_sampler.sampler.set_epoch(self._round)
            self._iterator = iter(self.dataloader)
            return next(self._iterator)


@LOOPS.register_module()
class ExactIterLoop(IterBasedTrainLoop):
    """Resumes with the batch that would have come next."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = _Stream(self.dataloader)

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        seed_step(self.runner.seed, self._iter)
        super().run_iter(data_batch)


EXACT_LOOPS = {'EpochBasedTrainLoop': ExactEpochLoop, 'IterBasedTrainLoop': ExactIterLoop}
