"""The order of gradients in DistributedDataParallel's buckets, kept over a resume.

The place of a number in its bucket decides in which order the processes' numbers are added up, and with
more than two processes the order decides the last bits. A fresh ``DistributedDataParallel`` has one
bucket in the order of the parameters. After its first backward pass it makes new ones, in the order in
which the gradients arrived. So a resumed run has to know that order before its first step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backbones.upstream import required

required('torch.distributed.Reducer.prepare_for_backward')


class GradientOrder:
    """Records the order in which gradients first arrive, or restores that of an interrupted run.

    Args:
        model: Has not been trained on yet. Where it is no ``DistributedDataParallel``, or one whose
            buckets stay as they are (``find_unused_parameters``), there is nothing to do. A static graph
            (``static_graph``) is not supported: its order is neither recorded nor restored.
        former: ``names`` of the interrupted run, the same on all processes; empty: record. Every
            process must call this, because restoring takes an all_reduce of all gradients.
    """

    def __init__(self, model: nn.Module, former: Sequence[str] = ()) -> None:
        self._noted: list[str] = []
        self._handles: list = []
        self._model = model
        if not _orders_anew(model):
            return
        parameters = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
        self._count = len(parameters)
        if former:
            self._noted = _order_like(former, parameters)
            _fill_buckets(model, [parameters[name] for name in self._noted])
            return
        self._handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._note, name))
            for name, parameter in parameters.items()
        ]

    @property
    def names(self) -> list[str]:
        """Of the parameters in this order; empty before the first synchronized backward pass."""
        return [] if self._handles else list(self._noted)

    def _note(self, name: str, parameter: Tensor) -> None:
        # While gradients are accumulated they reach the buckets in the last pass alone.
        if not self._model.require_backward_grad_sync:
            return
        self._noted.append(name)
        if len(self._noted) == self._count:
            for handle in self._handles:
                handle.remove()
            self._handles = []


def _orders_anew(model: nn.Module) -> TypeGuard[DistributedDataParallel]:
    return isinstance(model, DistributedDataParallel) and not (
        model.find_unused_parameters or model.static_graph
    )


def _order_like(former: Sequence[str], names: Collection[str]) -> list[str]:
    """All of ``names``: those of ``former`` as they are there, then the others."""
    known = [name for name in former if name in names]
    return [*known, *(name for name in names if name not in set(known))]


def _fill_buckets(model: DistributedDataParallel, parameters: Sequence[Tensor]) -> None:
    """A backward pass of zeros in which gradients arrive in the order of ``parameters``."""
    model.reducer.prepare_for_backward([])
    for parameter in parameters:
        total = parameter.sum()
        total.backward(torch.zeros_like(total))
    model.zero_grad(set_to_none=True)
