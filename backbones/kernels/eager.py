"""Whether PyTorch runs in plain eager mode: nothing intercepts operators or module calls.

A fused kernel replaces several operators and modules at once, so whoever intercepts these would miss
them. PyTorch has no public way to ask. The private names that answer are resolved once, here; where one
is missing, :func:`is_plain_eager` is always False and no kernel of this suite is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from backbones import upstream

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_DISPATCH_MODES = 'torch._C._len_torch_dispatch_stack'
_FUNCTION_MODES = 'torch._C._len_torch_function_stack'
_TRANSFORMS = 'torch._C._functorch.peek_interpreter_stack'
_FORWARD_AD_LEVEL = 'torch.autograd.forward_ad._current_level'
_GLOBAL_HOOKS = tuple(f'torch.nn.modules.module._global{name}' for name in _HOOKS)
_OF_MODULES = (*_HOOKS, '_compiled_call_impl')
_MODULE_ATTRIBUTES = tuple(f'torch.nn.Module.{name}' for name in _OF_MODULES)

_found = {
    path: upstream.optional(path)
    for path in (
        _DISPATCH_MODES,
        _FUNCTION_MODES,
        _TRANSFORMS,
        _FORWARD_AD_LEVEL,
        *_GLOBAL_HOOKS,
        *_MODULE_ATTRIBUTES,
    )
}
MISSING_NAMES = tuple(path for path, found in _found.items() if found is None)
_count_dispatch_modes = _found[_DISPATCH_MODES]
_count_function_modes = _found[_FUNCTION_MODES]
_current_transform = _found[_TRANSFORMS]
_global_hooks = tuple(_found[path] for path in _GLOBAL_HOOKS)


def is_plain_eager(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary, non-empty tensor and nothing intercepts operators or modules.

    False under tracing, compilation, function transforms (vmap, jvp), forward-mode differentiation and
    dispatch or function modes (FLOP counters, fake tensors), and where hooks for all modules are set.
    """
    return (
        not MISSING_NAMES
        and type(x) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.numel() > 0
        and not _count_dispatch_modes()
        and not _count_function_modes()
        and _current_transform() is None
        and forward_ad._current_level < 0
        and not any(_global_hooks)
    )


def is_intercepted(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its ``forward``: hooks of its own, or a compiled form."""
    return any(getattr(module, name) for name in _OF_MODULES)
