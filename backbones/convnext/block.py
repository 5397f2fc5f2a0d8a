"""The block of ConvNeXt and ConvNeXt V2, module by module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .visible import VisibleCells

GRN_EPS = 1e-6
NORM_EPS = 1e-6


class GRN(nn.Module):
    """Global response normalisation of ``(N, H, W, C)`` (ConvNeXt V2, section 3, algorithm 1).

    Channels compete by the L2 norm of their whole feature map. The norm is summed in float32 also
    under autocast: the squares of a large map overflow float16.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        stats_dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=stats_dtype)
        response = (norm / (norm.mean(dim=-1, keepdim=True) + GRN_EPS)).to(x.dtype)
        gamma, beta = self.gamma.to(x.dtype), self.beta.to(x.dtype)
        return x + gamma * (x * response) + beta


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, MLP of ratio 4 (with GRN in V2), layer scale (V1), residual.

    Input and output are ``(N, dim, H, W)``, or stacks of visible cells (:mod:`.visible`). Stochastic
    depth (Huang et al. 2016) drops the branch of whole samples while training.

    Args:
        dim: Channels.
        drop_path_rate: Probability that stochastic depth drops a sample's branch.
        layer_scale_init_value: Initial layer scale; 0: none.
        use_grn: Whether GRN follows the activation, as in V2.
    """

    def __init__(
        self, dim: int, drop_path_rate: float, layer_scale_init_value: float, use_grn: bool
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if use_grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = (
            nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = StochasticDepth(drop_path_rate, 'row')

    def forward(self, x: Tensor, visible: VisibleCells | None = None) -> Tensor:
        near = self.dwconv(x) if visible is None else visible.convolve(self.dwconv, x)
        branch = self.norm(near.permute(0, 2, 3, 1))
        branch = F.gelu(self.pwconv1(branch))
        if self.grn is not None:
            branch = self.grn(branch)
        branch = self.pwconv2(branch)
        if self.gamma is not None:
            branch = self.gamma * branch
        return x + self.drop_path(branch.permute(0, 3, 1, 2))
