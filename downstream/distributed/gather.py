"""Collecting results of all processes on one, and sending one to all: as data only, in memory."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from torch import Tensor

from .safe_pickle import dumps, loads

# Bytes of a message: some transports have a limit, and the buffer of a message doubles its memory.
CHUNK = 2**28
_MISSING = object()

T = TypeVar('T')


def gather(content: object) -> list | None:
    """Collect ``content`` of every process on the first one.

    Args:
        content: Numbers, texts, arrays, tensors, and dicts, lists and tuples of them.

    Returns:
        One item for each process in the order of the ranks; None on all processes but the first.
    """
    if get_world_size() == 1:
        return [content]
    blob = torch.frombuffer(bytearray(dumps(content)), dtype=torch.uint8)
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.long, device=get_comm_device())
    sizes[dist.get_rank()] = blob.numel()
    dist.all_reduce(sizes)
    if not is_main_process():
        for chunk in blob.split(CHUNK):
            dist.send(chunk.to(get_comm_device()), 0)
        return None
    return [content, *(_received(size, rank) for rank, size in enumerate(sizes.tolist()) if rank)]


def _received(size: int, source: int) -> object:
    blob = torch.empty(size, dtype=torch.uint8)
    for chunk in blob.split(CHUNK):
        buffer = torch.empty_like(chunk, device=get_comm_device())
        dist.recv(buffer, source)
        chunk.copy_(buffer)
    return loads(blob.numpy().data)


def broadcast(content: T) -> T:
    """Send ``content`` of the first process to all others, and return it on all of them.

    Args:
        content: As for :func:`gather`; ignored on all processes but the first.
    """
    if get_world_size() == 1:
        return content
    blob = (
        torch.frombuffer(bytearray(dumps(content)), dtype=torch.uint8).to(get_comm_device())
        if is_main_process()
        else None
    )
    size = torch.tensor(0 if blob is None else blob.numel(), device=get_comm_device())
    dist.broadcast(size, 0)
    if blob is None:
        blob = torch.empty(int(size), dtype=torch.uint8, device=get_comm_device())
    dist.broadcast(blob, 0)
    return content if is_main_process() else loads(blob.cpu().numpy().data)


class DataOnlyMetric(BaseMetric):
    """A metric whose results reach the first process through :func:`gather`.

    mmengine writes pickles into a folder that all processes share, and unpickles them.
    """

    # Whether results hold no tensors: looking for them takes as long as evaluating some results.
    results_on_cpu = False

    def evaluate(self, size: int) -> dict:
        """Compute the metrics of the first ``size`` results.

        Returns:
            The metrics by name, on all processes.
        """
        own = self.results if self.results_on_cpu else [_on_cpu(result) for result in self.results]
        parts = gather(own)
        metrics: dict = {}
        if parts is not None:
            # The sampler assigns samples to processes in turn, and repeats some to make the counts equal.
            in_order = chain.from_iterable(zip_longest(*parts, fillvalue=_MISSING))
            results = [result for result in in_order if result is not _MISSING][:size]
            metrics = self.compute_metrics(results)
            if self.prefix:
                metrics = {f'{self.prefix}/{name}': value for name, value in metrics.items()}
        self.results.clear()
        return broadcast(metrics)


def _on_cpu(content: object) -> object:
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, dict):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_cpu, content))
    return content
