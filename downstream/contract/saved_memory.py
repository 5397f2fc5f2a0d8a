"""Memory of the activations that a training step saves for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


def saved_activation_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd saves while ``run`` uses ``model``, without parameters.

    Fused blocks do not run under the hooks that count: the figure is that of the plain modules. It works
    on the meta device too, where no memory is allocated.
    """
    parameters = {StorageWeakRef(p.untyped_storage()) for p in model.parameters()}
    saved: dict[StorageWeakRef, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in parameters:
            saved[storage] = tensor  # a reference, so that no other storage takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
