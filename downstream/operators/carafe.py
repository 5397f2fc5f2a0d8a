"""mmcv's CARAFE (Wang et al. 2019, arXiv 1905.02188): upsampling with a kernel for each pixel.

``out[n, c, y, x]`` is the sum over the pixels ``k`` of a kernel of ``masks[n, g(c), k, y, x]`` times the
map at ``(y // s, x // s)`` moved by ``k``, zero outside of it. The pixels of the kernel are computed one
after another, so that no map is kept ``kernel_size ** 2`` times.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .dtypes import compute_dtype


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled map to ``output``.

    Args:
        features: ``(N, C, H, W)``.
        masks: ``(N, group_size * kernel_size ** 2, scale_factor * H, scale_factor * W)``.
        output: ``(N, C, scale_factor * H, scale_factor * W)``.
        kernel_size: Odd.
        group_size: Number of groups of channels that share kernels.
        scale_factor: Of the upsampling.
    """
    kernels = _kernels(masks, group_size, scale_factor)
    dtype = compute_dtype(features.dtype)
    windows = _windows(_padded(features.to(dtype), kernel_size, group_size), kernel_size)
    total = torch.zeros_like(_cells(output, group_size, scale_factor), dtype=dtype)
    for pixel, window in enumerate(windows):
        total.addcmul_(kernels[:, :, pixel].to(dtype), window[..., None, :, None])
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of the map and of the masks to ``bottom_grad`` and ``mask_grad``."""
    dtype = compute_dtype(features.dtype)
    kernels = _kernels(masks, group_size, scale_factor)
    grad = _cells(top_grad.to(dtype), group_size, scale_factor)
    padded = _padded(features.to(dtype), kernel_size, group_size)
    grad_padded = torch.zeros_like(padded)
    grad_kernels = torch.empty_like(kernels)
    windows = zip(_windows(padded, kernel_size), _windows(grad_padded, kernel_size))
    for pixel, (window, grad_window) in enumerate(windows):
        kernel = kernels[:, :, pixel].to(dtype)
        grad_window += (grad * kernel).sum((-3, -1))
        grad_kernels[:, :, pixel] = (grad * window[..., None, :, None]).sum(2, keepdim=True)
    mask_grad.copy_(grad_kernels.view(mask_grad.shape))
    half, (height, width) = kernel_size // 2, features.shape[2:]
    inner = grad_padded[..., half : half + height, half : half + width]
    bottom_grad.copy_(inner.reshape(features.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_forward`; ``rfeatures`` receives what :func:`carafe_backward` reads."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_backward`."""
    options = (kernel_size, group_size, scale_factor)
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, *options)


def _cells(maps: Tensor, groups: int, scale: int) -> Tensor:
    """``(N, groups, C / groups, H, scale, W, scale)`` of an upsampled map."""
    count, channels, height, width = maps.shape
    shape = (count, groups, channels // groups, height // scale, scale, width // scale, scale)
    return maps.reshape(shape)


def _kernels(masks: Tensor, groups: int, scale: int) -> Tensor:
    """``(N, groups, kernel_size ** 2, 1, H, scale, W, scale)`` of masks."""
    return _cells(masks, groups, scale).unsqueeze(3)


def _padded(maps: Tensor, kernel_size: int, groups: int) -> Tensor:
    """``(N, groups, C / groups, H + kernel_size - 1, W + kernel_size - 1)``, with zeros around."""
    half = kernel_size // 2
    return F.pad(maps, (half, half, half, half)).unflatten(1, (groups, -1))


def _windows(padded: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """A view of the map for each pixel of a kernel: what that pixel covers."""
    height, width = (size - kernel_size + 1 for size in padded.shape[-2:])
    for row in range(kernel_size):
        for column in range(kernel_size):
            yield padded[..., row : row + height, column : column + width]
