"""Models too large for one GPU's memory: parameters, gradients and optimizer spread over processes.

``sharded=True`` in a config. It is PyTorch's ``fully_shard`` (FSDP2): the names of the parameters stay,
so that rates per layer, hooks and checkpoints stay as well. Checkpoints are written whole, by the first
process, and load into any number of processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> None:
    """Spread the parameters of ``model`` over all processes, block by block of its backbone.

    Weights become the first process's. While a block of the backbone runs, its parameters are whole;
    those of necks and heads are whole together.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for stage in getattr(getattr(model, 'backbone', None), 'stages', ()):
        for block in stage.children():
            if any(True for _ in block.parameters(recurse=True)):
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has been here."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gathered(content: object) -> object:
    """``content`` with whole tensors on the CPU in the place of shards; every process calls this."""
    if isinstance(content, DTensor):
        return content.full_tensor().cpu()
    if isinstance(content, dict):
        return {key: gathered(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(gathered, content))
    return content.cpu() if isinstance(content, Tensor) else content


def like(whole: Tensor, example: Tensor) -> Tensor:
    """``whole``, spread as ``example`` is; every process calls this."""
    if not isinstance(example, DTensor) or isinstance(whole, DTensor):
        return whole
    whole = whole.to(example.device, example.dtype)
    return distribute_tensor(whole, example.device_mesh, example.placements)


def spread_optimizer(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """The state of an optimizer in a checkpoint, its averages spread as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    spread = {
        index: {
            name: like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state['state'].items()
    }
    return {**state, 'state': spread}


def local(gradient: Tensor) -> Tensor:
    """This process's part of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
