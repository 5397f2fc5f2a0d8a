"""Small whole numbers that all processes agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device


def maximum(*values: int) -> list[int]:
    """Each of ``values`` as the largest that any process passes; one all_reduce for all of them.

    Every process must call this. It returns after all have, so it is a barrier as well.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(values)
    flags = torch.tensor(values, dtype=torch.long, device=get_comm_device())
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return flags.tolist()
