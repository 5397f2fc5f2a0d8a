"""Random numbers that depend on the seed and the step alone, so that a resumed run repeats itself.

No generator's state is saved. Every sample is augmented with a seed of its own, made of the run's seed,
the process and the number of the draw; every training step begins with one made of the run's seed, the
process and the number of the iteration. So order, augmentation, drop path and sampling of RoIs are the
same whatever was interrupted before, and with any number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

from downstream.data.reading import UnreadableError
from downstream.running.hooks.unreadable import STANDS_IN_FOR

_DATA, _MODEL = 0, 1
_UNREADABLE_IN_A_ROW = 10


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and torch with a mixture of ``numbers``."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words[0])
    torch.manual_seed(int(words[1]))


def seed_step(seed: int, iteration: int) -> None:
    """Seed a training step of this process."""
    seed_all(seed, get_rank(), _MODEL, iteration)


class Draw(int):
    """The index of a sample that knows its number among all draws of the process."""

    number: int

    def __new__(cls, index: int, number: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.number = number
        return draw

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.number)


class _Shared:
    """mmengine copies the configs of data loaders; what is in them already built is not for copying."""

    def __deepcopy__(self, memo: dict) -> _Shared:
        return self


class NumberedSampler(_Shared, Sampler):
    """Numbers the draws of another sampler, over all epochs."""

    def __init__(self, sampler: Sampler, dataset: Dataset) -> None:
        self.sampler, self.dataset = sampler, dataset

    def __iter__(self) -> Iterator[Draw]:
        epoch = getattr(self.sampler, 'epoch', 0)
        first = epoch * len(self.sampler)
        for number, index in enumerate(self.sampler, first):
            yield Draw(index, number)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler the epoch, if it wants to know."""
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)


class SkippingBatchSampler(_Shared, Sampler):
    """Leaves out the batches that an interrupted run has seen, without loading them."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches, self.sampler = batches, batches.sampler
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last
        self._skip = 0

    def skip_once(self, count: int) -> None:
        """Leave out the first ``count`` batches of the next round."""
        self._skip = count

    def __iter__(self) -> Iterator[list[Draw]]:
        # A generator, because a loader with workers asks for two iterators and uses one.
        skip, self._skip = self._skip, 0
        yield from islice(iter(self.batches), skip, None)

    def __len__(self) -> int:
        return len(self.batches)


class SeededDataset(_Shared, Dataset):
    """A data set whose samples are augmented with the seed of their draw.

    Args:
        dataset: Of samples.
        seed: Of the run.
        stand_in: Whether another sample may stand in for one that cannot be read.
    """

    def __init__(self, dataset: Dataset, seed: int, stand_in: bool = False) -> None:
        self.__dict__.update(dataset=dataset, seed=seed, rank=get_rank(), stand_in=stand_in)

    def __getitem__(self, draw: Draw) -> object:
        seed_all(self.seed, self.rank, _DATA, getattr(draw, 'number', int(draw)))
        try:
            return self.dataset[int(draw)]
        except UnreadableError as error:
            if not self.stand_in:
                raise
            return self._another([str(error)])

    def _another(self, unreadable: list[str]) -> dict:
        """A sample at random that says for which unreadable ones it stands in."""
        while len(unreadable) < _UNREADABLE_IN_A_ROW:
            try:
                sample = self.dataset[np.random.randint(len(self))]
            except UnreadableError as error:
                unreadable.append(str(error))
                continue
            sample['data_samples'].set_metainfo({STANDS_IN_FOR: tuple(unreadable)})
            return sample
        raise UnreadableError(
            f'{len(unreadable)} files in a row cannot be read, the last: {unreadable[-1]}'
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__['dataset'], name)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def __getstate__(self) -> dict:
        return self.__dict__


def exact_dataloader(cfg: Mapping, seed: int, stand_in: bool = False) -> dict:
    """``cfg`` of a training data loader with data set and samplers built, so that it repeats itself.

    Args:
        cfg: As ``train_dataloader`` in a config.
        seed: Of the run.
        stand_in: Whether another sample may stand in for one that cannot be read.
    """
    cfg = dict(cfg)
    dataset = cfg.pop('dataset')
    if isinstance(dataset, Mapping):
        dataset = DATASETS.build(dataset)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    sampler = DATA_SAMPLERS.build(
        cfg.pop('sampler'), default_args={'dataset': dataset, 'seed': seed}
    )
    sampler, batch_size = NumberedSampler(sampler, dataset), cfg.pop('batch_size', 1)
    batches = cfg.pop('batch_sampler', None)
    drop_last = cfg.pop('drop_last', False)
    if batches is None:
        batches = BatchSampler(sampler, batch_size, drop_last)
    else:
        batches = DATA_SAMPLERS.build(
            batches, default_args={'sampler': sampler, 'batch_size': batch_size}
        )
    return {
        **cfg,
        'dataset': SeededDataset(dataset, seed, stand_in),
        'sampler': sampler,
        'batch_sampler': SkippingBatchSampler(batches),
    }
