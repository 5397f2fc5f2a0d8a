"""Results from process to process: as data only, and through memory in the place of a shared folder."""

from __future__ import annotations

from itertools import chain, zip_longest

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from torch import Tensor

from .safe_pickle import dumps, loads

# Messages of one piece are limited in some transports, and their buffers double the memory.
_PIECE = 2**28
_NONE = object()


def gather(content: object) -> list | None:
    """What every process gives, in their order, on the first one; None on the others.

    Args:
        content: Numbers, texts, arrays, tensors, and dicts, lists and tuples of them.
    """
    if get_world_size() == 1:
        return [content]
    blob = torch.frombuffer(bytearray(dumps(content)), dtype=torch.uint8)
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.long, device=get_comm_device())
    sizes[dist.get_rank()] = blob.numel()
    dist.all_reduce(sizes)
    if not is_main_process():
        for piece in blob.split(_PIECE):
            dist.send(piece.to(get_comm_device()), 0)
        return None
    return [content, *(_received(size, rank) for rank, size in enumerate(sizes.tolist()) if rank)]


def _received(size: int, source: int) -> object:
    blob = torch.empty(size, dtype=torch.uint8)
    for piece in blob.split(_PIECE):
        buffer = torch.empty_like(piece, device=get_comm_device())
        dist.recv(buffer, source)
        piece.copy_(buffer)
    return loads(memoryview(blob.numpy()))


def broadcast(content: object) -> object:
    """What the first process gives, on all of them."""
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
    return content if is_main_process() else loads(memoryview(blob.cpu().numpy()))


class DataOnlyMetric(BaseMetric):
    """A metric whose results reach the first process by :func:`gather`.

    mmengine's way writes pickles into a folder that all processes see, and unpickles them.
    """

    def evaluate(self, size: int) -> dict:
        """The figures, of the first ``size`` results, on all processes."""
        parts = gather([_on_cpu(result) for result in self.results])
        figures: dict = {}
        if parts is not None:
            # samples were dealt out in turn, the last ones twice where they did not come out even
            dealt = chain.from_iterable(zip_longest(*parts, fillvalue=_NONE))
            results = [result for result in dealt if result is not _NONE][:size]
            figures = self.compute_metrics(results)
            if self.prefix:
                figures = {f'{self.prefix}/{name}': value for name, value in figures.items()}
        self.results.clear()
        return broadcast(figures)


def _on_cpu(content: object) -> object:
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, dict):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_cpu, content))
    return content
