"""Modules whose parameters get no values, because nothing reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What torch.nn.init, timm and mmengine make initial values with; the arguments are numbers.
_INITIAL_VALUES = {
    'uniform_', 'normal_', 'kaiming_uniform_', 'constant_', 'erfinv_', 'mul_', 'add_', 'clamp_', 'fill_',
    'zero_',
}  # fmt: skip


class _WithoutInitialisation(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') in _INITIAL_VALUES:
            tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
            if len(tensors) == 1 and isinstance(tensors[0], nn.Parameter):
                return tensors[0]
        return func(*args, **kwargs)


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Modules that are built in this context have parameters of any values.

    Buffers have their values. Random numbers that only parameters would get are not drawn.
    """
    with _WithoutInitialisation():
        yield


@contextmanager
def on_meta() -> Iterator[None]:
    """Tensors are made on the meta device, and modules are not initialised.

    PyTorch runs the initialisation of a meta tensor operator by operator in Python, to no effect: most
    of the time that it takes to build a network there.
    """
    with torch.device('meta'), _WithoutInitialisation():
        yield
