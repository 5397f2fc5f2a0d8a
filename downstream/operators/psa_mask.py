"""mmcv's masks of point-wise spatial attention (Zhao et al. 2018, PSANet): weights around each pixel, as
weights of all pixels of the map.

With ``o`` the pixel ``p`` seen from ``q``, a mask has ``masks[n, o, q]``. ``collect`` gives
``out[n, p, q]``, ``distribute`` ``out[n, q, p]``; pixels that the mask does not reach have 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COLLECT = 0


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the weights of all pixels to ``output``.

    Args:
        input: ``(num_, h_mask * w_mask, h_feature, w_feature)``.
        output: ``(num_, h_feature * w_feature, h_feature, w_feature)``.
        psa_type: 0 collect, 1 distribute.
        num_: Number of images.
        h_feature, w_feature: Size of the map.
        h_mask, w_mask: Size of the mask around a pixel.
        half_h_mask, half_w_mask: Where the pixel is in its mask.
    """
    masks, out = input.flatten(2), torch.zeros_like(output).flatten(2)
    y, x = _rows_and_columns(h_feature, w_feature, input.device)
    for row in range(h_feature):
        own = slice(row * w_feature, (row + 1) * w_feature)
        # Where the mask of each pixel of this row has each pixel of the map: (all, own).
        mask_y = y[:, None] - row + half_h_mask
        mask_x = x[:, None] - x[own] + half_w_mask
        out[:, :, own] = _take(masks[:, :, own], mask_y, mask_x, h_mask, w_mask)
    output.copy_((out if psa_type == _COLLECT else out.transpose(1, 2)).view(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of :func:`psamask_forward` to ``grad_input``."""
    grads, into = grad_output.flatten(2), torch.zeros_like(grad_input).flatten(2)
    grads = grads if psa_type == _COLLECT else grads.transpose(1, 2)
    mask_y, mask_x = _rows_and_columns(h_mask, w_mask, grad_input.device)
    for row in range(h_feature):
        own = slice(row * w_feature, (row + 1) * w_feature)
        # Which pixel of the map each place of the mask of each pixel of this row covers: (places, own).
        y = mask_y[:, None] + row - half_h_mask
        x = mask_x[:, None] + torch.arange(w_feature, device=grads.device) - half_w_mask
        into[:, :, own] = _take(grads[:, :, own], y, x, h_feature, w_feature)
    grad_input.copy_(into.view(grad_input.shape))


def _rows_and_columns(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each pixel of a map, ``(height * width,)``."""
    pixel = torch.arange(height * width, device=device)
    return pixel // width, pixel % width


def _take(source: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """``source[n, y[i, j] * width + x[i, j], j]``, and 0 outside of ``height`` and ``width``."""
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = (y * width + x).where(inside, 0).expand(len(source), -1, -1)
    return source.gather(1, index).where(inside, 0)
