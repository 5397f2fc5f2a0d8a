"""Which of PyTorch's implementations of an optimizer runs: one kernel for all parameters, or several."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch.optim import Optimizer

# Options of an optimizer that choose an implementation, not what it computes.
_CHOICES = ('fused', 'foreach', 'capturable')


def fuse_on_cuda_alone(cfg: Config) -> None:
    """Take ``optim_wrapper.optimizer.fused=True`` out of ``cfg`` where there is no CUDA.

    On a CPU the fused implementation exists as well, but its last bits are others: a recipe that fuses on
    GPUs takes the same steps on a CPU as one that does not.
    """
    optimizer = cfg.optim_wrapper.get('optimizer') or {}
    if optimizer.get('fused') and not torch.cuda.is_available():
        del optimizer['fused']
        print_log('No CUDA: the optimizer is not fused.', 'current')


def keep_implementation(state: dict, optimizer: Optimizer) -> None:
    """Let the state dict of an optimizer choose the implementation that ``optimizer`` has, in place.

    PyTorch takes every option of a checkpoint, so that a resumed run would not do what its config says;
    with a fused optimizer under a loss scaler it would even fail, as the scaler believes it to be fused.
    """
    for saved, own in zip(state.get('param_groups', ()), optimizer.param_groups):
        saved.update({name: own[name] for name in _CHOICES if name in own})
