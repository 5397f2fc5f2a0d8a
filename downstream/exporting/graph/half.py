"""Networks in float16 whose sums stay in float32, as casts that an exporter writes into the file.

The squares of a large feature map add up to more than 65504, float16's largest number: GRN of ConvNeXt V2
becomes infinite in a network that is converted as a whole, and the detector finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)
_SUMS = {
    F.layer_norm,
    F.group_norm,
    F.batch_norm,
    F.instance_norm,
    F.rms_norm,
    F.normalize,
    F.softmax,
    F.adaptive_avg_pool2d,
    F.avg_pool2d,
    torch.softmax,
    torch.norm,
    torch.linalg.norm,
    torch.linalg.vector_norm,
    torch.sum,
    torch.mean,
    torch.var,
    torch.std,
    torch.var_mean,
    torch.std_mean,
    Tensor.softmax,
    Tensor.norm,
    Tensor.sum,
    Tensor.mean,
    Tensor.var,
    Tensor.std,
}


class Float32Sums(TorchFunctionMode):
    """Within it, operators that sum over many float16 numbers compute in float32.

    Their results are float16 again, unless the call asks for another dtype.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> object:
        kwargs = kwargs or {}
        first = next((value for value in args if isinstance(value, Tensor)), None)
        if func not in _SUMS or first is None or first.dtype != torch.float16:
            return func(*args, **kwargs)
        result = func(*cast(args, torch.float32), **cast(kwargs, torch.float32))
        return result if kwargs.get('dtype') else cast(result, torch.float16)


def use_half(parts: Iterable[nn.Module], exact: Iterable[nn.Module] = ()) -> None:
    """Let modules compute in float16, sums and norms in float32; in place.

    What surrounds them notices nothing: they take and return float32.

    Args:
        parts: Modules that do not contain each other.
        exact: Layers of the parts that compute in float32, and return it.
    """
    exact = list(exact)
    for part in parts:
        for module in part.modules():
            if not isinstance(module, _NORMS) and not any(module is layer for layer in exact):
                _halve(module)
        part.forward = _between_casts(part.forward)  # type: ignore[method-assign]
    for layer in exact:
        layer.forward = _from_float32(layer.forward)  # type: ignore[method-assign]


def _halve(module: nn.Module) -> None:
    """Convert what ``module`` itself holds."""
    for parameter in module.parameters(recurse=False):
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.half()
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype == torch.float32:
            module.register_buffer(name, buffer.half())


def _between_casts(forward: Callable) -> Callable:
    def in_half(*args: object, **kwargs: object) -> object:
        with Float32Sums():
            result = forward(*cast(args, torch.float16), **cast(kwargs, torch.float16))
        return cast(result, torch.float32)

    return in_half


def _from_float32(forward: Callable) -> Callable:
    return lambda x: forward(x.float())


def cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with the float16 and float32 tensors in its lists, tuples and dicts as ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in (torch.float16, torch.float32) else value
    if isinstance(value, Mapping):
        return {key: cast(item, dtype) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(cast(item, dtype) for item in value)
    return value
