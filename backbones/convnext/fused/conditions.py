"""Conditions under which a fused path may replace ``Block.forward``, and what it reads from a block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from backbones.kernels.eager import is_intercepted, is_plain_eager

from ..block import GRN, Block


class BlockParameters(NamedTuple):
    """The parameters of an unmodified block, in the order in which autograd functions take them."""

    conv_weight: Tensor  # (C, 1, 7, 7)
    conv_bias: Tensor  # (C,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    linear1_weight: Tensor  # (4 C, C)
    linear1_bias: Tensor  # (4 C,)
    linear2_weight: Tensor  # (C, 4 C)
    linear2_bias: Tensor  # (C,)
    layer_scale: Tensor | None  # (C,), V1 only
    grn_gamma: Tensor | None  # (1, 1, 1, 4 C), V2 only
    grn_beta: Tensor | None  # (1, 1, 1, 4 C), V2 only


def parameters_of(block: Block) -> BlockParameters:
    """The parameters of ``block``; a bias may be None unless :func:`is_unmodified`."""
    return BlockParameters(
        block.dwconv.weight,
        block.dwconv.bias,  # type: ignore[arg-type]
        block.norm.weight,
        block.norm.bias,
        block.pwconv1.weight,
        block.pwconv1.bias,
        block.pwconv2.weight,
        block.pwconv2.bias,
        block.gamma,
        None if block.grn is None else block.grn.gamma,
        None if block.grn is None else block.grn.beta,
    )


def is_unmodified(block: Block) -> bool:
    """Whether the modules of ``block`` are those that :class:`Block` made, without hooks."""
    conv, norm, linear1, linear2 = block.dwconv, block.norm, block.pwconv1, block.pwconv2
    expected = [
        (conv, nn.Conv2d),
        (norm, nn.LayerNorm),
        (linear1, nn.Linear),
        (linear2, nn.Linear),
        (block.drop_path, StochasticDepth),
    ]
    if block.grn is not None:
        expected.append((block.grn, GRN))
    return (
        all(
            type(module) is kind and 'forward' not in vars(module) and not is_intercepted(module)
            for module, kind in expected
        )
        and conv.kernel_size == (7, 7)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (3, 3)
        and conv.padding_mode == 'zeros'
        and conv.groups == conv.in_channels == conv.out_channels
        and block.drop_path.mode == 'row'
        and (block.grn is None or block.gamma is None)
        and None not in (conv.bias, norm.weight, norm.bias, linear1.bias, linear2.bias)
    )


def has_plain_parameters(block: Block, x: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether all parameters are ordinary, contiguous, and on the device of ``x``.

    Args:
        block: An unmodified block.
        x: Its input.
        dtype: What the parameters must have; None: anything.
    """
    return all(
        p is None
        or (
            type(p) in (Tensor, nn.Parameter)
            and p.device == x.device
            and p.is_contiguous()
            and (dtype is None or p.dtype == dtype)
        )
        for p in parameters_of(block)
    )


def needs_gradient(block: Block, x: Tensor) -> bool:
    """Whether a backward pass may come through ``block``."""
    return torch.is_grad_enabled() and (
        x.requires_grad or any(p is not None and p.requires_grad for p in parameters_of(block))
    )


def drops_paths(block: Block) -> bool:
    """Whether stochastic depth may drop the branch of a sample."""
    return block.drop_path.training and block.drop_path.p > 0


def is_eager_cpu_float(x: Tensor) -> bool:
    """Whether ``x`` is float32 or float64 on a CPU, in plain eager mode and without autocast."""
    return (
        x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and is_plain_eager(x)
    )


def prefers_channels_last(x: Tensor) -> bool:
    """Whether a ConvNeXt is faster on ``x`` in channels_last memory format.

    oneDNN's convolutions and those of tensor cores are. False where something intercepts operators:
    function transforms refuse the conversion.
    """
    return is_eager_cpu_float(x) or (x.is_cuda and is_plain_eager(x))


def pixels_of(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` in channels_last memory format as ``(N H W, C)``, in the same memory."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def as_map(pixels: Tensor, like: Tensor) -> Tensor:
    """``(N H W, C)`` as ``(N, C, H, W)`` of the shape of ``like``, in the same memory."""
    count, channels, height, width = like.shape
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)
