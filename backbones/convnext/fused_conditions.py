"""Whether a block may be computed in another way than its modules say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.kernels.eager import is_watched

from .block import GRN, Block, DropPath


def is_plain(block: Block) -> bool:
    """Whether block and modules are as :class:`Block` made them, and nobody has hooked into them."""
    conv, norm = block.dwconv, block.norm
    kinds = [
        (conv, nn.Conv2d),
        (norm, nn.LayerNorm),
        (block.pwconv1, nn.Linear),
        (block.pwconv2, nn.Linear),
    ]
    kinds += [(block.drop_path, DropPath)]
    if block.grn is not None:
        kinds.append((block.grn, GRN))
    return (
        all(
            type(module) is kind and not is_watched(module) and 'forward' not in vars(module)
            for module, kind in kinds
        )
        and conv.kernel_size == (7, 7)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (3, 3)
        and conv.padding_mode == 'zeros'
        and conv.groups == conv.in_channels == conv.out_channels
        and (block.grn is None or block.gamma is None)
        and None not in (conv.bias, norm.weight, norm.bias, block.pwconv1.bias, block.pwconv2.bias)
    )


def parameters_of(block: Block) -> tuple[Tensor | None, ...]:
    """Weight and bias of convolution, norm and both linear layers; layer scale or GRN's; GRN's shift."""
    scale = block.gamma if block.grn is None else block.grn.gamma
    shift = None if block.grn is None else block.grn.beta
    modules = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    pairs = [parameter for module in modules for parameter in (module.weight, module.bias)]
    return (*pairs, scale, shift)


def has_plain_parameters(block: Block, x: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether all are ordinary, on the device of ``x``, and of ``dtype`` (None: of any)."""
    return all(
        p is None
        or (
            type(p) in (Tensor, nn.Parameter)
            and p.device == x.device
            and (dtype is None or p.dtype == dtype)
        )
        for p in parameters_of(block)
    )


def needs_gradient(block: Block, x: Tensor) -> bool:
    """Whether a backward pass may come through ``block``."""
    return torch.is_grad_enabled() and (
        x.requires_grad or any(p is not None and p.requires_grad for p in parameters_of(block))
    )


def rows_of(x: Tensor) -> Tensor:
    """``(N, C, H, W)``, channels last, as ``(N H W, C)`` over the same memory."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def as_map(rows: Tensor, like: Tensor) -> Tensor:
    """``(N H W, C)`` as ``(N, C, H, W)``, of the form of ``like``, over the same memory."""
    count, channels, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
