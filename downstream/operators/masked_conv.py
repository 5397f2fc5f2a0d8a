"""mmcv's masked convolution, computed at the pixels of a mask alone (Guided Anchoring)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write what a kernel covers at ``M`` pixels to ``col``.

    Args:
        im: ``(1, C, H, W)``.
        mask_h_idx: Rows of the pixels, ``(M,)``.
        mask_w_idx: Their columns.
        col: ``(C * kernel_h * kernel_w, M)``.
        kernel_h, kernel_w, pad_h, pad_w: Of the convolution; zeros are outside of the map.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write ``col`` ``(channels, M)`` to ``M`` pixels of ``im`` ``(1, channels, height, width)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
