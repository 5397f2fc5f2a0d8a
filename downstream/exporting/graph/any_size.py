"""Operators that exporters write for the size that they happen to see, in forms for every size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode

from backbones.upstream import optional

from . import pooling
from .pooling import contiguous

# Whether a tensor is contiguous whatever its sizes are.
_is_in_order = optional('torch._prims_common.is_contiguous_or_false')


class AnySize(TorchFunctionMode):
    """Within it, operators compute the same in a form that a trace holds for pictures of every size.

    - :func:`torch.nn.functional.adaptive_avg_pool2d` is two matrix products. ONNX has no such operator,
      and an exporter unrolls it for one size.
    - Pooling that only skips cells, as an FPN makes its coarsest level, is a selection of rows and
      columns. ``torch.export`` otherwise asks whether their number is even.
    - Other maxima and averages of windows are those of a map that the windows fill, cut off or padded.
      ``torch.export`` otherwise asks whether there are any.
    - Maps of convolutions are contiguous. ``torch.export`` otherwise asks for the memory format of a map,
      which depends on whether it has more than one cell.
    - What is reshaped is contiguous. Of a slice, as the tokens of a ViT without its class token are,
      ``torch.export`` otherwise asks whether there is more than one picture.
    - BatchNorm of as many boxes as there happen to be is a product and a sum. ``torch.export`` otherwise
      asks whether there are any.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            return pooling.adaptive_average(*args, **kwargs)
        if func is F.avg_pool2d:
            return pooling.average(*args, **kwargs)
        if func is F.max_pool2d:
            return pooling.maximum(*args, **kwargs)
        if func is torch.conv2d:
            return func(contiguous(args[0]), *args[1:], **kwargs)
        if func is F.batch_norm and free_unbacked_symbols(args[0]):
            return _batch_norm(*args, **kwargs)
        if func is Tensor.reshape and _is_in_order and not _is_in_order(args[0]):
            return func(contiguous(args[0]), *args[1:], **kwargs)
        if func is Tensor.contiguous and len(args) == 1 and not kwargs:
            return contiguous(args[0])
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm` by running statistics."""
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)
