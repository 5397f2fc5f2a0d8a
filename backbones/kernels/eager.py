"""Whether PyTorch runs plainly: nobody intercepts operators, and nobody has hooked into a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_globals

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def is_unwatched(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor, and nothing watches or changes operators.

    Not so under tracing, compilation, vmap, forward-mode differentiation, or a mode that sees operators;
    nor where there are hooks for all modules.
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not any(getattr(module_globals, f'_global{hooks}') for hooks in _HOOKS)
    )


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has hooked into ``module``."""
    return any(getattr(module, hooks) for hooks in _HOOKS)
