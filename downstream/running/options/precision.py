"""Mixed precision by device: float16 with loss scaling on CUDA, bfloat16 on CUDA and CPU."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from backbones.errors import ConfigError

_DRIVER = Path('/proc/driver/nvidia/version')


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Trains under bfloat16 autocast, on CPU and CUDA. bfloat16 has float32's range: no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = get_device()
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def require_usable_gpu() -> None:
    """Raise where there is an NVIDIA driver that PyTorch cannot use; a run would take the CPU.

    Raises:
        ConfigError: The driver is too old for the installed PyTorch, or that one is built without CUDA.
    """
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')
    if hidden or torch.cuda.is_available() or not _DRIVER.is_file():
        return
    found = re.search(r'Kernel Module\D*([\d.]+)', _DRIVER.read_text())
    built = f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'
    raise ConfigError(
        f'this machine has an NVIDIA driver ({found[1] if found else "version unknown"}), but PyTorch '
        f'{torch.__version__}, built {built}, cannot use it. Update the driver or install a PyTorch '
        "built for it; to use the CPU on purpose, set CUDA_VISIBLE_DEVICES=''."
    )


def set_precision(cfg: Config, amp: str | None) -> None:
    """Choose the optimizer wrapper of ``cfg``.

    Args:
        cfg: A config to train; changed in place.
        amp: ``'fp16'``, ``'bf16'``, ``'auto'`` (fp16 on CUDA, bf16 on the CPU) or None: as the config
            says, except that a recipe's float16 is float32 where there is no CUDA.

    Raises:
        ConfigError: float16 was asked for without CUDA.
    """
    cuda = torch.cuda.is_available()
    wrapper = cfg.optim_wrapper
    if amp is None:
        if wrapper.get('type') == 'AmpOptimWrapper' and not cuda:
            print_log("No CUDA: training in float32 instead of the recipe's float16.", 'current')
            _set_wrapper(wrapper, 'OptimWrapper')
        return
    if half_precision(amp, cuda) == 'fp16':
        _set_wrapper(wrapper, 'AmpOptimWrapper')
        wrapper.setdefault('loss_scale', 'dynamic')
    else:
        _set_wrapper(wrapper, 'BFloat16OptimWrapper')
        if cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            print_log(
                f'{torch.cuda.get_device_name()} emulates bfloat16, which is slower than float32; '
                'it computes float16 natively: --amp fp16.',
                'current',
                level=logging.WARNING,
            )


def half_precision(amp: str, cuda: bool) -> str:
    """What ``--amp`` means on a device: ``'fp16'`` or ``'bf16'``.

    Args:
        amp: One of these, or ``'auto'``: float16 on CUDA, bfloat16 on a CPU.
        cuda: Whether the device is a CUDA one.

    Raises:
        ConfigError: Another word, or float16 without CUDA.
    """
    if amp == 'auto':
        return 'fp16' if cuda else 'bf16'
    if amp not in ('fp16', 'bf16'):
        raise ConfigError(f'--amp {amp}: give fp16, bf16 or nothing.')
    if amp == 'fp16' and not cuda:
        raise ConfigError('--amp fp16 needs CUDA; the CPU takes --amp bf16.')
    return amp


def _set_wrapper(wrapper: dict, kind: str) -> None:
    known = ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper')
    if wrapper.get('type', 'OptimWrapper') not in known:
        raise ConfigError(
            f'--amp does not know how to change optim_wrapper.type={wrapper["type"]!r}.'
        )
    wrapper['type'] = kind
    if kind != 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)
