"""A block and a stage that choose a faster way where it computes what their modules would."""

from __future__ import annotations

import functools
import logging
from typing import TypeGuard

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.kernels.eager import MISSING_NAMES, is_intercepted, is_plain_eager

from ..block import Block
from ..visible import VisibleCells
from . import cpu, gpu
from .switch import FusedSwitch, fused_switch


class FusedBlock(Block):
    """A :class:`Block` that runs fused on a CPU or GPU, where this computes what its modules would."""

    def forward(self, x: Tensor, visible: VisibleCells | None = None) -> Tensor:
        if cpu.can_run_fused(self, x):
            return cpu.run(self, x, visible)
        if visible is None and gpu.can_run_fused(self, x):
            return gpu.run(self, x)
        return super().forward(x, visible)


class Stage(nn.Sequential):
    """Blocks, one after the other, at one resolution.

    Without gradients, consecutive blocks share their memory. A block that was replaced, overridden or
    hooked into is called like any module.

    Args:
        blocks: Modules from ``(N, C, H, W)`` to ``(N, C, H, W)``. For stacks of visible cells
            (:mod:`backbones.convnext.visible`) they take the cells as a second argument.
        with_cp: Recompute each block in the backward pass to save memory.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor, visible: VisibleCells | None = None) -> Tensor:
        _log_path(x)
        sequence = None
        where = () if visible is None else (visible,)
        for block in self:
            if visible is None and _runs_only_own_forward(block) and cpu.can_share_memory(block, x):
                sequence = sequence or cpu.InferenceSequence()
                x = sequence.run(block, x)
                continue
            sequence = None  # this block may store its input or output somewhere
            if self.with_cp and x.requires_grad:
                x = checkpoint(block, x, *where, use_reentrant=False)
            else:
                x = block(x, *where)
        return x


def _runs_only_own_forward(block: nn.Module) -> TypeGuard[FusedBlock]:
    """Whether calling ``block`` would run ``FusedBlock.forward`` and nothing else."""
    return type(block) is FusedBlock and 'forward' not in vars(block) and not is_intercepted(block)


def _log_path(x: Tensor) -> None:
    """Log, once for each kind of input, how its blocks run and why."""
    if x.device.type in ('cpu', 'cuda') and (MISSING_NAMES or is_plain_eager(x)):
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
        _log_path_once(x.device, dtype, autocast, fused_switch())


@functools.cache
def _log_path_once(
    device: torch.device, dtype: torch.dtype, autocast: bool, switch: FusedSwitch
) -> None:
    path = cpu if device.type == 'cpu' else gpu
    if MISSING_NAMES:
        obstacle = f'torch {torch.__version__} has no {", ".join(MISSING_NAMES)}'
    else:
        obstacle = path.obstacle(device, dtype, autocast, switch)
    how = f'module by module: {obstacle}' if obstacle else f'fused: {path.description()}'
    failed = MISSING_NAMES or (obstacle and device.type == 'cuda' and 'gpu' in switch.devices)
    level = logging.WARNING if failed else logging.INFO
    print_log(f'ConvNeXt blocks in {dtype} on {device} run {how}.', 'current', level)
