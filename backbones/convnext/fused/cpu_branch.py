"""What follows the depthwise convolution in a block on a CPU, chunk by chunk: the forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels.layers import pointwise
from backbones.kernels.layers.linear import (
    add_linear,
    allocates_output,
    linear,
    linear_gelu,
    linear_with_pending_bias,
)

from .chunks import Scratch, chunks, images_of, longest_chunk
from .conditions import BlockParameters, pixels_of
from .grn import grn_scale


@dataclass(frozen=True)
class Branch:
    """What follows the depthwise convolution in a block: norm, MLP, layer scale or GRN, drop path."""

    parameters: BlockParameters
    norm_eps: float | None
    """None where the norm has been applied already."""
    drop_path_scale: float
    scratch: Scratch

    def add(self, residual: Tensor, y: Tensor, out: Tensor) -> Tensor | None:
        """Write the sum of ``residual`` and the branch to ``out``.

        Args:
            residual: ``(N, C, H, W)`` in channels_last memory format.
            y: The convolution's output, of the same shape and format.
            out: The same; may be ``residual`` or ``y``.

        Returns:
            With GRN, its L2 norms ``(N, 4 C)``.
        """
        residual_pixels, y_pixels, out_pixels = map(pixels_of, (residual, y, out))
        gamma, beta = self.parameters.grn_gamma, self.parameters.grn_beta
        if gamma is None or beta is None:
            self._add_without_grn(residual_pixels, y_pixels, out_pixels)
            return None
        grn = gamma.flatten(), beta.flatten()
        size = len(y_pixels) // len(y)
        norms = []
        for images in images_of(y_pixels, len(y), len(self.parameters.linear1_weight)):
            maps = residual_pixels[images], y_pixels[images], out_pixels[images]
            if images.stop - images.start == size:
                norms.append(self._add_image_with_grn(*maps, *grn)[None])
            else:
                norms.append(self._add_images_with_grn(*maps, size, *grn))
        return torch.cat(norms)

    def _normed(self, y: Tensor) -> Tensor:
        if self.norm_eps is None:
            return y
        weight, bias = self.parameters.norm_weight, self.parameters.norm_bias
        return F.layer_norm(y, weight.shape, weight, bias, self.norm_eps)

    def _add_without_grn(self, residual: Tensor, y: Tensor, out: Tensor) -> None:
        p, pixels = self.parameters, len(y)
        hidden_dim = len(p.linear1_weight)
        scale: Tensor | float = self.drop_path_scale
        if p.layer_scale is not None:
            scale = p.layer_scale * scale
        column = scale[:, None] if isinstance(scale, Tensor) else scale
        # Scaling the weight costs C x 4 C, scaling the product pixels x C.
        scales_weight = pixels > 2 * hidden_dim
        if scales_weight:
            weight, bias = p.linear2_weight * column, p.linear2_bias * scale
        memory = None
        if not allocates_output(y.dtype, p.linear1_weight):
            memory = self.scratch.take('hidden', longest_chunk(pixels, hidden_dim), hidden_dim, y)
        for chunk in chunks(pixels, hidden_dim):
            normed = self._normed(y[chunk])
            hidden = None if memory is None else memory[: len(normed)]
            hidden = linear_gelu(normed, p.linear1_weight, p.linear1_bias, hidden)
            if scales_weight:
                add_linear(hidden, weight, bias, residual[chunk], out[chunk])
            else:
                branch = linear(hidden, p.linear2_weight).add_(p.linear2_bias).mul_(scale)
                torch.add(residual[chunk], branch, out=out[chunk])

    def _add_image_with_grn(
        self, residual: Tensor, y: Tensor, out: Tensor, gamma: Tensor, beta: Tensor
    ) -> Tensor:
        """Of one image, whose norms ``(4 C,)`` GRN needs before its scale; returns these."""
        p, pixels = self.parameters, len(y)
        hidden_dim = len(p.linear1_weight)
        hidden = self.scratch.take('hidden', pixels, hidden_dim, y)
        squares = y.new_zeros(hidden_dim)
        for chunk in chunks(pixels, hidden_dim):
            product, bias = linear_with_pending_bias(
                self._normed(y[chunk]), p.linear1_weight, p.linear1_bias, hidden[chunk]
            )
            pointwise.gelu(product, bias, hidden[chunk], squares)
        norms = squares.sqrt_()
        scale = grn_scale(norms, gamma) * self.drop_path_scale
        bias = torch.addmv(p.linear2_bias, p.linear2_weight, beta)
        weight, bias = p.linear2_weight * scale, bias * self.drop_path_scale
        for chunk in chunks(pixels, hidden_dim):
            add_linear(hidden[chunk], weight, bias, residual[chunk], out[chunk])
        return norms

    def _add_images_with_grn(
        self,
        residual: Tensor,
        y: Tensor,
        out: Tensor,
        size: int,
        gamma: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """Of images with ``size`` pixels each, at once; returns their norms ``(images, 4 C)``."""
        p, hidden_dim = self.parameters, len(self.parameters.linear1_weight)
        hidden = self.scratch.take('hidden', len(y), hidden_dim, y)
        product, bias = linear_with_pending_bias(
            self._normed(y), p.linear1_weight, p.linear1_bias, hidden
        )
        squares = y.new_zeros(len(y) // size, hidden_dim)
        for image, before, after in zip(squares, product.split(size), hidden.split(size)):
            pointwise.gelu(before, bias, after, image)
        norms = squares.sqrt_()
        scale = grn_scale(norms, gamma) * self.drop_path_scale
        hidden.view(-1, size, hidden_dim).mul_(scale[:, None])
        bias = torch.addmv(p.linear2_bias, p.linear2_weight, beta) * self.drop_path_scale
        add_linear(hidden, p.linear2_weight, bias, residual, out)
        return norms
