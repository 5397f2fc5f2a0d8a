"""What a backbone costs: multiply-adds, and time and memory beside another one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .saved_memory import saved_activation_bytes

_REPEATS = 5
_MODES = ('inference', 'training')


@torch.no_grad()
def gmacs(model: nn.Module, size: Sequence[int]) -> float:
    """Billions of multiply-adds of matrix products and convolutions for one image ``size``, (C, H, W)."""
    device = next(model.parameters()).device
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *size, device=device))
    return counter.get_total_flops() / 2e9


def cost_beside(model: nn.Module, reference: nn.Module, image: Tensor) -> str:
    """Time and memory of a backbone as multiples of another one's, in words; measured in turn.

    Args:
        model: The backbone.
        reference: The other one, on the same device.
        image: What both run on.
    """
    seconds: dict[nn.Module, dict[str, list[float]]] = {
        one: {mode: [] for mode in _MODES} for one in (model, reference)
    }
    for _ in range(_REPEATS + 1):
        for one, of_modes in seconds.items():
            for mode, values in of_modes.items():
                values.append(_seconds(one, image, mode))
    own, other = (
        {mode: statistics.median(values[1:]) for mode, values in of_modes.items()}
        for of_modes in seconds.values()
    )
    saved = [saved_activation_bytes(one.train(), partial(one, image)) for one in seconds]
    times = ', '.join(f'{mode} {own[mode] / other[mode]:.2f} x its time' for mode in _MODES)
    return f'{times}, activations {saved[0] / saved[1]:.2f} x its {saved[1] / 2**20:.0f} MiB'


def _seconds(model: nn.Module, image: Tensor, mode: str) -> float:
    model.train(mode == 'training')
    _wait(image.device)
    start = time.perf_counter()
    with torch.set_grad_enabled(mode == 'training'):
        maps = model(image)
        if mode == 'training':
            sum(m.sum() for m in maps).backward()
    _wait(image.device)
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
