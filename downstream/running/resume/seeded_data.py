"""Random numbers that depend on the seed and the step alone, so that a resumed run repeats itself.

No state of a generator is saved. Every sample is augmented with a seed made of the run's seed, the rank
of the process and the number of the draw. Every training step begins with a seed made of the run's
seed, the rank and the number of the iteration. So order, augmentation, drop path and sampling of RoIs
do not depend on interruptions, nor on the number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Dataset, Sampler

from downstream.data.built import build
from downstream.data.reading import UnreadableError
from downstream.running.hooks.unreadable import STANDS_IN_FOR

_DATA, _MODEL = 0, 1
_UNREADABLE_IN_A_ROW = 10


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and torch with one seed that is made of ``numbers``."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words[0])
    torch.manual_seed(int(words[1]))


def seed_step(seed: int, iteration: int) -> None:
    """Seed a training step of this process."""
    seed_all(seed, get_rank(), _MODEL, iteration)


class _SizedSampler(Protocol):
    def __iter__(self) -> Iterator[int]: ...
    def __len__(self) -> int: ...


class _SizedDataset(Protocol):
    def __getitem__(self, index: int, /) -> Any: ...
    def __len__(self) -> int: ...


class IndexWithDraw(int):
    """The index of a sample, with its number among all draws of the process."""

    number: int

    def __new__(cls, index: int, number: int) -> IndexWithDraw:
        draw = super().__new__(cls, index)
        draw.number = number
        return draw

    def __reduce__(self) -> tuple:
        return IndexWithDraw, (int(self), self.number)


class NotDeepCopied:
    """mmengine deep-copies the configs of data loaders; objects in them that are built stay the same."""

    def __deepcopy__(self, memo: dict) -> NotDeepCopied:
        return self


class NumberedSampler(NotDeepCopied, Sampler):
    """Numbers the draws of another sampler, over all epochs."""

    def __init__(self, sampler: _SizedSampler, dataset: _SizedDataset) -> None:
        self.sampler, self.dataset = sampler, dataset

    def __iter__(self) -> Iterator[IndexWithDraw]:
        epoch = getattr(self.sampler, 'epoch', 0)
        first = epoch * len(self.sampler)
        for number, index in enumerate(self.sampler, first):
            yield IndexWithDraw(index, number)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on to the sampler, if it has an order per epoch."""
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)


class SkippingBatchSampler(NotDeepCopied, Sampler):
    """Skips the batches that an interrupted run has trained on, without loading them."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches, self.sampler = batches, batches.sampler
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last
        self._skip = 0

    def skip_once(self, count: int) -> None:
        """Skip the first ``count`` batches of the next round."""
        self._skip = count

    def __iter__(self) -> Iterator[list[IndexWithDraw]]:
        # A generator, because a loader with workers makes two iterators and uses one.
        skip, self._skip = self._skip, 0
        yield from islice(iter(self.batches), skip, None)

    def __len__(self) -> int:
        return len(self.batches)


class SeededDataset(NotDeepCopied, Dataset):
    """A data set whose samples are augmented with the seed of their draw.

    Args:
        dataset: Of samples.
        seed: Of the run.
        replace_unreadable: Whether another sample may replace one whose file cannot be read.
    """

    dataset: _SizedDataset
    seed: int
    rank: int
    replace_unreadable: bool

    def __init__(self, dataset: _SizedDataset, seed: int, replace_unreadable: bool = False) -> None:
        self.__dict__.update(
            dataset=dataset, seed=seed, rank=get_rank(), replace_unreadable=replace_unreadable
        )

    def __getitem__(self, draw: IndexWithDraw) -> object:
        seed_all(self.seed, self.rank, _DATA, getattr(draw, 'number', int(draw)))
        try:
            return self.dataset[int(draw)]
        except UnreadableError as error:
            if not self.replace_unreadable:
                raise
            return self._another([str(error)])

    def _another(self, unreadable: list[str]) -> dict:
        """A random sample, which records the unreadable files that it replaces."""
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

    def __setattr__(self, name: str, value: object) -> None:
        # A hook that switches the pipeline of a data set writes it here.
        setattr(self.dataset, name, value)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def __getstate__(self) -> dict:
        return self.__dict__


def exact_dataloader(cfg: Mapping, seed: int, replace_unreadable: bool = False) -> dict:
    """``cfg`` of a training data loader, with data set and samplers built such that it is repeatable.

    Args:
        cfg: As ``train_dataloader`` in a config.
        seed: Of the run.
        replace_unreadable: Whether another sample may replace one whose file cannot be read.
    """
    cfg = dict(cfg)
    dataset = cfg.pop('dataset')
    if isinstance(dataset, Mapping):
        dataset = build(dataset)
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
        'dataset': SeededDataset(dataset, seed, replace_unreadable),
        'sampler': sampler,
        'batch_sampler': SkippingBatchSampler(batches),
    }
