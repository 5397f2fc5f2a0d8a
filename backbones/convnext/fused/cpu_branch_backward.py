"""What follows the depthwise convolution in a block on a CPU, chunk by chunk: the backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backbones.kernels.layers import pointwise
from backbones.kernels.layers.linear import linear, linear_with_pending_bias

from .chunks import Scratch, chunks, images_of, longest_chunk
from .conditions import BlockParameters, as_map, pixels_of
from .grn import grn_backward, grn_scale


def sum_of(pixels: Tensor) -> Tensor:
    return torch.mv(pixels.t(), pixels.new_ones(len(pixels)))


class _BranchGradients(NamedTuple):
    """Gradients of the parameters behind the convolution, in the order of :class:`BlockParameters`."""

    norm_weight: Tensor
    norm_bias: Tensor
    linear1_weight: Tensor
    linear1_bias: Tensor
    linear2_weight: Tensor
    linear2_bias: Tensor
    layer_scale: Tensor | None
    grn_gamma: Tensor | None
    grn_beta: Tensor | None


class BranchBackward:
    """The backward pass of :class:`.cpu_branch.Branch`; sums up gradients of parameters over chunks."""

    def __init__(self, parameters: BlockParameters, eps: float, drop_path_scale: float) -> None:
        self.parameters, self.eps, self.drop_path_scale = parameters, eps, drop_path_scale
        self.hidden_dim = len(parameters.linear1_weight)
        self.scratch = Scratch()
        p = parameters
        # Gradients of matrices start with a product, the others are sums that start at zero.
        self.grads = _BranchGradients(
            torch.zeros_like(p.norm_weight),
            torch.zeros_like(p.norm_bias),
            torch.empty_like(p.linear1_weight),
            torch.zeros_like(p.linear1_bias),
            torch.empty_like(p.linear2_weight),
            torch.zeros_like(p.linear2_bias),
            *(
                None if vector is None else torch.zeros_like(vector)
                for vector in (p.layer_scale, p.grn_gamma, p.grn_beta)
            ),
        )
        self.is_first_product = True

    def run(self, grad_out: Tensor, y: Tensor, norms: Tensor | None) -> Tensor:
        """The gradient of ``y``, ``(N, C, H, W)``; :attr:`grads` are complete afterwards.

        Args:
            grad_out: Gradient of the block's output, of the shape of ``y``.
            y: The convolution's output.
            norms: GRN's, ``(N, 4 C)``.
        """
        grad_pixels, y_pixels = pixels_of(grad_out), pixels_of(y)
        grad_y = torch.empty_like(y_pixels)
        if norms is None:
            self._run_without_grn(grad_pixels, y_pixels, grad_y)
        else:
            size = len(y_pixels) // len(y)
            for images in images_of(y_pixels, len(y), self.hidden_dim):
                maps = grad_pixels[images], y_pixels[images], grad_y[images]
                first, last = images.start // size, images.stop // size
                if last - first == 1:
                    self._run_image_with_grn(*maps, norms[first])
                else:
                    self._run_images_with_grn(*maps, norms[first:last])
        return as_map(grad_y, y)

    def _run_without_grn(self, grad_out: Tensor, y: Tensor, grad_y: Tensor) -> None:
        """From the gradient of the block's output to that of ``y``; all ``(pixels, C)``."""
        p, grads, pixels = self.parameters, self.grads, len(y)
        scale: Tensor | float = self.drop_path_scale
        if p.layer_scale is not None:
            scale = p.layer_scale * scale
        column = scale[:, None] if isinstance(scale, Tensor) else scale
        scales_weight = pixels > self.hidden_dim
        weight = p.linear2_weight * column if scales_weight else p.linear2_weight
        longest = longest_chunk(pixels, self.hidden_dim)
        buffers = [
            self.scratch.take(name, longest, self.hidden_dim, y)
            for name in ('hidden', 'grad_hidden')
        ]
        product = torch.empty_like(p.linear2_weight.t())  # of hidden activations and grad_out
        for chunk in chunks(pixels, self.hidden_dim):
            count = chunk.stop - chunk.start
            before, grad_hidden = (buffer[:count] for buffer in buffers)
            normed = self._normed(y[chunk])
            before, bias = linear_with_pending_bias(
                normed[0], p.linear1_weight, p.linear1_bias, before
            )
            grad_branch = grad_out[chunk] if scales_weight else grad_out[chunk] * scale
            grad_hidden = linear(grad_branch, weight.t(), grad_hidden)
            hidden = pointwise.gelu_backward_(before, bias, grad_hidden, grads.linear1_bias)
            _add_product(product, hidden, grad_out[chunk], chunk.start == 0)
            grads.linear2_bias.addmv_(grad_out[chunk].t(), grad_out.new_ones(count))
            self._through_linear1_and_norm(grad_hidden, y[chunk], normed, grad_y[chunk])
        product = product.t()
        if p.layer_scale is not None:
            # The inner product of grad_out and the unscaled branch, by channel.
            dot = (product * p.linear2_weight).sum(1).addcmul_(p.linear2_bias, grads.linear2_bias)
            torch.mul(dot, self.drop_path_scale, out=grads.layer_scale)
        torch.mul(product, column, out=grads.linear2_weight)
        grads.linear2_bias.mul_(scale)

    def _run_image_with_grn(
        self, grad_out: Tensor, y: Tensor, grad_y: Tensor, norms: Tensor
    ) -> None:
        """The same for one image with GRN's ``norms`` ``(4 C,)``."""
        p, grads, pixels = self.parameters, self.grads, len(y)
        assert p.grn_gamma is not None
        assert p.grn_beta is not None
        assert grads.grn_gamma is not None
        assert grads.grn_beta is not None
        all_before = self.scratch.take('hidden', pixels, self.hidden_dim, y)
        longest = longest_chunk(pixels, self.hidden_dim)
        buffer = self.scratch.take('grad_hidden', longest, self.hidden_dim, y)
        product = self.scratch.take('product', self.hidden_dim, len(p.linear2_bias), y)
        before_gelu = []
        grad_bias = torch.zeros_like(p.linear2_bias)
        for chunk in chunks(pixels, self.hidden_dim):
            before, bias = linear_with_pending_bias(
                self._normed(y[chunk])[0], p.linear1_weight, p.linear1_bias, all_before[chunk]
            )
            before_gelu.append((before, bias))
            hidden = pointwise.gelu(before, bias, buffer[: len(before)])
            _add_product(product, hidden, grad_out[chunk], chunk.start == 0)
            grad_bias.addmv_(grad_out[chunk].t(), grad_out.new_ones(len(before)))
        product = product.t()
        grad_bias.mul_(self.drop_path_scale)
        gamma, beta = p.grn_gamma.flatten(), p.grn_beta.flatten()
        dot = (p.linear2_weight * product).sum(0) * self.drop_path_scale
        grn = grn_backward(norms, gamma, dot)
        scale = grn_scale(norms, gamma) * self.drop_path_scale
        if self.is_first_product:
            torch.mul(product, scale, out=grads.linear2_weight)
        else:
            grads.linear2_weight.addcmul_(product, scale)
        grads.linear2_weight.addr_(grad_bias, beta)
        grads.linear2_bias.add_(grad_bias)
        grads.grn_beta.view(-1).add_(grad_bias @ p.linear2_weight)
        grads.grn_gamma.view(-1).add_(grn.gamma)
        weight = p.linear2_weight * scale
        for chunk, (before, bias) in zip(chunks(pixels, self.hidden_dim), before_gelu):
            grad_hidden = linear(grad_out[chunk], weight.t(), buffer[: len(before)])
            pointwise.gelu_backward_(before, bias, grad_hidden, grads.linear1_bias, grn.coefficient)
            self._through_linear1_and_norm(
                grad_hidden, y[chunk], self._normed(y[chunk]), grad_y[chunk]
            )

    def _run_images_with_grn(
        self, grad_out: Tensor, y: Tensor, grad_y: Tensor, norms: Tensor
    ) -> None:
        """The same for small images at once, with their ``norms`` ``(images, 4 C)``."""
        p, grads, count = self.parameters, self.grads, len(norms)
        assert p.grn_gamma is not None
        assert p.grn_beta is not None
        assert grads.grn_gamma is not None
        assert grads.grn_beta is not None
        by_image = (count, -1, self.hidden_dim)
        names = ('hidden', 'grad_hidden', 'active')
        before, grad_hidden, hidden = (
            self.scratch.take(name, len(y), self.hidden_dim, y) for name in names
        )
        normed = self._normed(y)
        before, bias = linear_with_pending_bias(normed[0], p.linear1_weight, p.linear1_bias, before)
        pointwise.gelu(before, bias, hidden)
        grad_hidden = linear(grad_out, p.linear2_weight.t(), grad_hidden)
        dot = torch.linalg.vecdot(hidden.view(by_image), grad_hidden.view(by_image), dim=1)
        gamma, beta = p.grn_gamma.flatten(), p.grn_beta.flatten()
        grn = grn_backward(norms, gamma, dot * self.drop_path_scale)
        scale = (grn_scale(norms, gamma) * self.drop_path_scale)[:, None]
        hidden.view(by_image).mul_(scale)
        _add_product(grads.linear2_weight, grad_out, hidden, self.is_first_product)
        grad_bias = sum_of(grad_out).mul_(self.drop_path_scale)
        grads.linear2_weight.addr_(grad_bias, beta)
        grads.linear2_bias.add_(grad_bias)
        grads.grn_beta.view(-1).add_(grad_bias @ p.linear2_weight)
        grads.grn_gamma.view(-1).add_(grn.gamma.sum(0))
        grad_hidden.view(by_image).mul_(scale)
        for image in range(count):
            pixels = slice(image * len(y) // count, (image + 1) * len(y) // count)
            pointwise.gelu_backward_(
                before[pixels],
                bias,
                grad_hidden[pixels],
                grads.linear1_bias,
                grn.coefficient[image],
            )
        self._through_linear1_and_norm(grad_hidden, y, normed, grad_y)

    def _normed(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The norm of ``y``, its means and inverse standard deviations."""
        weight, bias = self.parameters.norm_weight, self.parameters.norm_bias
        return torch.native_layer_norm(y, weight.shape, weight, bias, self.eps)

    def _through_linear1_and_norm(
        self, grad_hidden: Tensor, y: Tensor, normed: tuple[Tensor, Tensor, Tensor], out: Tensor
    ) -> None:
        """From the gradient of the hidden activations before GELU to that of ``y``, into ``out``."""
        p, grads = self.parameters, self.grads
        values, *moments = normed
        _add_product(grads.linear1_weight, grad_hidden, values, self.is_first_product)
        self.is_first_product = False
        grad_normed = linear(grad_hidden, p.linear1_weight.t())
        sums = [grads.norm_weight, grads.norm_bias]
        pointwise.layer_norm_backward(grad_normed, y, moments, p.norm_weight, out, sums)


def _add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """Add ``a^T b`` to ``total``, or overwrite it if this is the first product."""
    torch.addmm(total, a.t(), b, beta=0 if is_first else 1, out=total)
