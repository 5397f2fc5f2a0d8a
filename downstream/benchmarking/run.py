"""Models timed in turn, on the same pictures, and the memory that each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from statistics import mean

import numpy as np
import torch
from mmengine.config import Config

from backbones.errors import ConfigError, UserError
from backbones.weights.timm_catalog import first_line
from downstream.predicting.predictor import half_dtype, usable_device
from downstream.running.config import RunOptions
from downstream.running.tested import environment

from .memory import peak_of_step
from .names import Named, config_of, named
from .pictures import Pictures, make_pictures, papers_size, size_of_test
from .subjects import ModelFacts, Subject, exported_subject, pytorch_subject
from .timing import CoarseClockError, Spread, Timings, interleave

# Height and width of what a model runs on before its memory is measured.
_SMALL = (64, 64)
_RANDOM = 'random where no checkpoint is named; a detector then returns as many objects as it may'


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the command line of a benchmark says.

    Attributes:
        model: The config.
        files: Checkpoints of it and exported files; none: the config with random weights.
        against: Likewise, or other configs: what ``files`` are compared with.
        size: Height and width of the pictures; None: those of the test of the config.
        batch: Pictures at once.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None: a GPU if there is one.
        amp: Mixed precision of models in PyTorch, None, ``'auto'``, ``'fp16'`` or ``'bf16'``.
        threads: Of a CPU, in every runtime; None: as PyTorch chooses.
        rounds: How often each model is timed.
        warm_up: Rounds before, not timed.
        images: Files, folders or patterns of pictures; none: noise.
        as_papers: Time as the papers do: single pictures of the size with which they count operations.
        cpu_time: Time what this process computes, in all its threads, instead of what passes.
    """

    model: RunOptions
    files: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    batch: int = 1
    device: str | None = None
    amp: str | None = None
    threads: int | None = None
    rounds: int = 30
    warm_up: int = 5
    images: tuple[str, ...] = ()
    as_papers: bool = False
    cpu_time: bool = False


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        model: What is known of it without running it.
        step_bytes: Memory that a batch takes at its peak on top of the weights; None where the system
            does not report it.
        objects: Found in a picture, on average; None of a segmenter.
        latency: Seconds from pictures to predictions of a batch.
        latency_95: Its 95th percentile.
        images_per_second: Pictures of a batch by its seconds.
        fps: All pictures by all seconds, which is what the papers call frames per second.
        speed: How many times as fast as the reference; None of the reference itself.
        seconds: Of each round.
    """

    model: ModelFacts
    step_bytes: int | None
    objects: float | None
    latency: Spread
    latency_95: float
    images_per_second: Spread
    fps: float
    speed: Spread | None
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Benchmark:
    """Models that were timed in turn.

    Attributes:
        rows: In the order of the command line; those of ``--against`` last.
        reference: Name of the one that the others are compared with; None: there is only one.
        facts: What a reader of the figures has to know, by title.
    """

    rows: tuple[Measured, ...]
    reference: str | None
    facts: dict


def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Time models in turn.

    Raises:
        UserError: A model, a picture or a value cannot be used, or a model fails on the pictures.
    """
    _check(options)
    device = usable_device(options.device)
    dtype = half_dtype(options.amp, device)
    if options.cpu_time and device.type != 'cpu':
        raise ConfigError(
            f'--cpu-time: {device} computes elsewhere; leave it out, or give --device cpu.'
        )
    own, others = named(options.model, options.files, options.against)
    if options.amp and all(one.is_exported for one in [*own, *others]):
        raise ConfigError('--amp: the precision of exported files is their own; leave it out.')
    configs = {one.name: config_of(one) for one in [*own, *others]}
    cfg = configs[own[0].name]
    size = options.size or (papers_size(cfg) if options.as_papers else size_of_test(cfg))
    count = options.warm_up + options.rounds + 1
    pictures = make_pictures(cfg, size, options.batch, count, options.images)
    with _threads(options.threads):
        cases: list[Subject] = []
        objects: dict[str, list] = {}
        memory: dict[str, int | None] = {}
        for one in [*own, *others]:
            subject = _subject(one, configs[one.name], size, device, dtype)
            with _explained(one.name, size, options.batch):
                memory[one.name] = _memory_of(subject, pictures, device)
            objects[one.name] = []
            cases.append(subject)
        steps = {
            name: _step(subject, pictures, objects[name]) for name, subject in zip(objects, cases)
        }
        timings = _timed(steps, options)
    reference = (others or own)[0].name if len(cases) > 1 else None
    rows = [
        _measured(subject.facts, timings, reference, memory, objects, options.batch)
        for subject in cases
    ]
    facts = _facts(options, cfg, pictures, device)
    if any(one.file is None for one in [*own, *others]):
        facts['weights'] = _RANDOM
    return Benchmark(tuple(rows), reference, facts)


def _timed(steps: Mapping[str, Callable[[], None]], options: BenchmarkOptions) -> Timings:
    clock = time.process_time if options.cpu_time else time.perf_counter
    try:
        return interleave(steps, options.rounds, options.warm_up, 'rounds', clock)
    except CoarseClockError as error:
        raise ConfigError(
            f'--cpu-time: {error}; leave it out, or time more at once with --batch or --size.'
        ) from error


def _subject(
    one: Named, cfg: Config, size: tuple[int, int], device: torch.device, dtype: torch.dtype | None
) -> Subject:
    if one.is_exported:
        return exported_subject(one, cfg, size, device)
    return pytorch_subject(one, cfg, size, device, dtype)


def _check(options: BenchmarkOptions) -> None:
    for name, least in (('batch', 1), ('rounds', 2), ('warm_up', 0), ('threads', 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f'--{name.replace("_", "-")} {value}: give at least {least}.')
    if options.size is not None and min(options.size) < 1:
        raise ConfigError(f'--size {options.size[0]} {options.size[1]}: give height and width.')
    if options.as_papers and (options.size or options.batch != 1):
        raise ConfigError(
            '--fps-as-papers sets the size of the pictures and takes one at a time; leave --size and '
            '--batch out.'
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(count or former)
    try:
        yield
    finally:
        torch.set_num_threads(former)


@contextmanager
def _explained(name: str, size: tuple[int, int], batch: int) -> Iterator[None]:
    """A ConfigError for whatever a model raises when it runs for the first time."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f'{name} fails on {batch} x {size[1]} x {size[0]} pixels: {type(error).__name__}: '
            f'{first_line(error)}'
        ) from error


def _memory_of(subject: Subject, pictures: Pictures, device: torch.device) -> int | None:
    """What the first full batch takes; before it a part of it runs, and the libraries set up theirs."""
    batch = pictures.batches[0]
    subject.prepare([one[: _SMALL[0], : _SMALL[1]] for one in batch])
    return peak_of_step(lambda: subject.run(batch), device)


def _step(subject: Subject, pictures: Pictures, objects: list) -> Callable[[], None]:
    batches = cycle(pictures.batches)

    def step() -> None:
        objects.append(subject.run(next(batches)))

    return step


def _measured(
    model: ModelFacts,
    timings: Timings,
    reference: str | None,
    memory: dict[str, int | None],
    objects: dict[str, list],
    batch: int,
) -> Measured:
    name = model.name
    seconds = timings.seconds[name]
    found = [number for number in objects[name] if number is not None]
    return Measured(
        model=model,
        step_bytes=memory[name],
        objects=mean(found) / batch if found else None,
        latency=timings.spread(name),
        latency_95=float(np.percentile(seconds, 95)),
        images_per_second=Spread.of([batch / value for value in seconds]),
        fps=batch * len(seconds) / sum(seconds),
        speed=timings.speed(name, reference) if reference not in (None, name) else None,
        seconds=tuple(seconds),
    )


def _facts(
    options: BenchmarkOptions, cfg: Config, pictures: Pictures, device: torch.device
) -> dict:
    where = environment()
    height, width = pictures.size
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else where['device']
    threads = options.threads or torch.get_num_threads()
    return {
        'pictures': f'{options.batch} at a time, {width} x {height} pixels, {pictures.what}',
        'timed': f'{"CPU time of all threads, " if options.cpu_time else ""}from pixels in memory to '
        'predictions: normalisation, network, post-processing',
        'weights': 'trained',
        'rounds': f'{options.rounds} after {options.warm_up} of warm-up, models in turn',
        'device': name if device.type != 'cpu' else f'{name}, threads: {threads}',
        'versions': where['versions'] | {'python': where['python']},
        'size': [height, width],
        'batch': options.batch,
        'protocol': "the papers'" if options.as_papers else 'median of rounds',
        'task': 'segmentation' if cfg.default_scope == 'mmseg' else 'detection',
    }
