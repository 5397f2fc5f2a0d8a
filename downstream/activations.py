"""How much a training step keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def kept_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of what ``run`` does with ``model``, without the parameters.

    Works on the meta device as well, where nothing is really kept.
    """
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    # Every output stays alive, so that no storage takes the place of another.
    outputs: list = []
    handle = nn.modules.module.register_module_forward_hook(lambda *args: outputs.append(args[2]))
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs.append(run())
    finally:
        handle.remove()
    return sum(kept.values())
