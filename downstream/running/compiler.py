"""``compile``: where PyTorch's compiler fails, one line says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from backbones.errors import ConfigError
from backbones.upstream import optional

_OTHER_BACKEND = 'take another backend: --cfg-options compile.backend=aot_eager'


def require_writable_code(cfg: Config, task: str) -> None:
    """Raise a ConfigError where PyTorch's compiler would fail in the first step, minutes later.

    Its code for CPUs fuses no backward pass of maps in channels_last memory format that are not square
    (torch 2.12: an AssertionError in torch/_inductor/codegen/cpp.py).

    Args:
        cfg: A complete config.
        task: What it trains, for the message.
    """
    wanted = cfg.get('compile')
    if wanted is None or wanted is False or get_device() != 'cpu':
        return
    backend = wanted.get('backend', 'inductor') if isinstance(wanted, Mapping) else 'inductor'
    if backend == 'inductor':
        raise ConfigError(
            f"compile: PyTorch's compiler cannot write code for {task} on a CPU. Leave it out, blocks "
            f'run fused without it; or {_OTHER_BACKEND}.'
        )


def leave_uncompiled(optimizer: OptimWrapper) -> None:
    """Let the step of an optimizer run as it is within a compiled training step.

    PyTorch's compiler (2.12) rewrites Adam such that a rate of 0, with which warm-ups begin, divides 0 by
    0 wherever a gradient is 0; and it compiles the step anew for every rate.
    """
    # A bound method, whose calls mmengine's schedulers count.
    step = MethodType(torch.compiler.disable(type(optimizer).step), optimizer)
    optimizer.step = step  # type: ignore[method-assign]


@contextmanager
def explain_compiler() -> Iterator[None]:
    """Raise a ConfigError with the compiler's first words where it fails."""
    try:
        yield
    except Exception as error:
        # It is imported by now if it has failed.
        failure = optional('torch._dynamo.exc.TorchDynamoException')
        if failure is None or not isinstance(error, failure):
            raise
        words = ' '.join(str(error).split('\n\n')[0].split())
        raise ConfigError(
            f"compile: PyTorch's compiler stopped at this model: {type(error).__name__}: {words:.300}. "
            f'Leave compile out, or {_OTHER_BACKEND}.'
        ) from error
