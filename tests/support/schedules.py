"""Learning rates of a config, step by step, by torch's and mmengine's own schedulers."""

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper  # noqa: F401  registers
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn


def learning_rates(cfg: Config, base: float, length: int, steps_per_epoch: int) -> list[float]:
    """The rate of each of ``length`` steps of a run whose optimizer has the rate ``base``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(s), default_args={'optimizer': optimizer, 'epoch_length': steps_per_epoch}
        )
        for s in cfg.param_scheduler
    ]
    found = []
    for step in range(length):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % steps_per_epoch == 0:
                scheduler.step()
    return found
