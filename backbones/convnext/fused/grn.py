"""Global response normalisation (ConvNeXt V2, section 3, algorithm 1) from its norms, and its gradient.

With the feature maps ``g_j`` of an image, ``j = 1 .. D``, GRN computes ``s_j g_j + beta_j`` where

    n_j = |g_j|_2,   m = mean(n) + eps,   s_j = 1 + gamma_j n_j / m.

All tensors here are ``(..., D)``, one row for each image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..block import GRN_EPS


class GRNGradients(NamedTuple):
    """What GRN's backward pass needs beside the gradient of its output."""

    gamma: Tensor
    """Gradient of gamma, ``(..., D)``, not yet summed over images."""
    coefficient: Tensor
    """``(..., D)``: the gradient of ``g_j`` is ``s_j`` times the output's, plus this times ``g_j``."""


def grn_scale(norms: Tensor, gamma: Tensor) -> Tensor:
    """The factors ``s``, from the L2 norms ``n`` ``(..., D)`` and ``gamma`` ``(D,)``."""
    return 1 + gamma * (norms / _mean(norms))


def grn_backward(norms: Tensor, gamma: Tensor, dot: Tensor) -> GRNGradients:
    """GRN's gradients.

    With ``d_j``, the inner product of ``g_j`` and the gradient of GRN's output ``j``:

        grad gamma_j = d_j n_j / m
        grad n_j     = gamma_j d_j / m - sum_k(gamma_k d_k n_k) / (D m^2)
        grad g_j     = s_j (gradient of the output) + (grad n_j / n_j) g_j

    Where ``n_j`` is 0, so is ``g_j``, and PyTorch's gradient of the norm is 0 there: so is the last term.

    Args:
        norms: ``n``, ``(..., D)``.
        gamma: ``(D,)``.
        dot: ``d``, ``(..., D)``.
    """
    mean_norm = _mean(norms)
    grad_response = gamma * dot
    mean_term = (grad_response * norms).mean(-1, keepdim=True) / (mean_norm * mean_norm)
    grad_norm = grad_response / mean_norm - mean_term
    coefficient = torch.where(norms > 0, grad_norm / norms, torch.zeros_like(norms))
    return GRNGradients(norms / mean_norm * dot, coefficient)


def _mean(norms: Tensor) -> Tensor:
    return norms.mean(-1, keepdim=True) + GRN_EPS
