"""ConvNeXt's blocks on a CPU, fused: fewer passes over memory, and less saved for the backward pass.

Feature maps are in channels_last memory format. Norm, linear layers and activation work on ``[pixels,
channels]``, chunk by chunk, so that a chunk's hidden activations stay in the cache. Layer scale, or
GRN's scale of an image's channels, is multiplied into the weight of the second linear layer, and the
product is added to the residual. For the backward pass a block saves its input and the depthwise
convolution's output; what is between them is recomputed, chunk by chunk. Nothing is cached from one call
to the next: weights may change in any way at any time.

:func:`can_run_fused` states the conditions; where they do not hold, a block's modules run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.kernels import depthwise, pointwise
from backbones.kernels.linear import (
    add_linear,
    allocates_output,
    linear,
    linear_gelu,
    linear_with_pending_bias,
)

from .block import Block
from .fused_conditions import (
    BlockParameters,
    as_map,
    drops_paths,
    has_plain_parameters,
    is_eager_cpu_float,
    is_unmodified,
    needs_gradient,
    parameters_of,
    pixels_of,
)
from .fused_grn import grn_backward, grn_scale
from .fused_switch import FusedSwitch, fused_switch
from .visible import VisibleCells

# Most pixels and most hidden activations of a chunk: few enough for the cache that cores share and for
# memory that the process has already, enough for matrix products at full speed.
_CHUNK_PIXELS, _CHUNK_ELEMENTS = 4096, 3 * 2**20


def can_run_fused(block: Block, x: Tensor) -> bool:
    """Whether :func:`run` may replace ``block``'s modules and computes what they would."""
    return (
        is_eager_cpu_float(x)
        and 'cpu' in fused_switch().devices
        and is_unmodified(block)
        and has_plain_parameters(block, x, x.dtype)
    )


def obstacle(
    device: torch.device, dtype: torch.dtype, autocast: bool, switch: FusedSwitch
) -> str | None:
    """Why no block runs fused on such input; None where blocks do."""
    if 'cpu' not in switch.devices:
        return f'switched off by {switch.source}'
    if autocast or dtype not in (torch.float32, torch.float64):
        return 'the fused blocks are for float32 and float64 without autocast'
    return None


def description() -> str:
    """What computes the fused blocks."""
    if depthwise.compiled() is None or pointwise.compiled() is None:
        return "PyTorch's operators, because there is no compiled C code"
    return 'compiled C code'


def run(block: Block, x: Tensor, visible: VisibleCells | None = None) -> Tensor:
    """``block(x, visible)``: ``(N, C, H, W)`` to ``(N, C, H, W)`` in channels_last memory format."""
    x = x.contiguous(memory_format=torch.channels_last)
    # The module's own random numbers, for each sample 0 or 1 / (1 - p).
    mask = block.drop_path(x.new_ones(len(x), 1, 1, 1)) if drops_paths(block) else None
    if needs_gradient(block, x):
        return BlockFunction.apply(x, mask, block.norm.eps, visible, *parameters_of(block))
    kept = _kept_samples(mask, visible)
    return _forward(x, kept, block.norm.eps, parameters_of(block)).out


def can_share_memory(block: Block, x: Tensor) -> bool:
    """Whether :class:`InferenceSequence` computes what ``block`` would."""
    return not needs_gradient(block, x) and not drops_paths(block) and can_run_fused(block, x)


class InferenceSequence:
    """Blocks one after the other without gradients; each overwrites the output of the one before.

    The input of the first is left alone: others may use it. Blocks must fulfil :func:`can_share_memory`,
    and nobody else may hold an output but the last.
    """

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._output: Tensor | None = None

    def run(self, block: Block, x: Tensor) -> Tensor:
        """``block(x)``, shapes as in :func:`run`."""
        is_own = x is self._output
        x = x.contiguous(memory_format=torch.channels_last)
        parameters = parameters_of(block)
        normed = None
        if is_own:
            rows, columns = pixels_of(x).shape
            normed = as_map(self._scratch.take('normed', rows, columns, x), x)
        normed = depthwise.convolve(
            x,
            parameters.conv_weight,
            parameters.conv_bias,
            normed,
            norm=(parameters.norm_weight, parameters.norm_bias, block.norm.eps),
        )
        # A chunk of the normed map is not read any more when its output is written.
        self._output = x if is_own else normed
        _Branch(parameters, None, 1.0, self._scratch).add(x, normed, self._output)
        return self._output


class Scratch:
    """Named buffers that one chunk or block uses after the other.

    The system maps large tensors afresh each time they are allocated, which takes longer than filling
    them.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """An uninitialised ``(rows, columns)`` view of the buffer ``name``, which grows as needed."""
        size = rows * columns
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size:
            memory = self._memory[name] = like.new_empty(size)
        return memory[:size].view(rows, columns)


def _chunk_count(pixels: int, hidden_dim: int) -> int:
    return max(1, round(pixels / min(_CHUNK_PIXELS, max(1, _CHUNK_ELEMENTS // hidden_dim))))


def _chunks(pixels: int, hidden_dim: int) -> Iterator[slice]:
    """Even chunks of ``pixels`` with ``hidden_dim`` hidden activations each."""
    count = _chunk_count(pixels, hidden_dim)
    bounds = [pixels * i // count for i in range(count + 1)]
    return (slice(begin, end) for begin, end in pairwise(bounds))


def _longest_chunk(pixels: int, hidden_dim: int) -> int:
    """Pixels of the longest of :func:`_chunks`."""
    return -(-pixels // _chunk_count(pixels, hidden_dim))


def _images(pixels: Tensor, count: int, hidden_dim: int) -> Iterator[slice]:
    """The pixels of each of ``count`` images, or of several together where they are small.

    GRN scales the hidden activations of every image by factors of its own. With more pixels than channels,
    it is cheaper to scale the weight of the second layer for each image; with fewer, images share their
    matrix products, as many as make a chunk.
    """
    size = len(pixels) // count
    together = 1
    if 4 * size < hidden_dim:  # hidden activations are four times the channels
        together = max(1, min(_CHUNK_PIXELS, _CHUNK_ELEMENTS // hidden_dim) // size)
    step = size * together
    return (slice(begin, min(begin + step, len(pixels))) for begin in range(0, len(pixels), step))


@dataclass(frozen=True)
class _Branch:
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
        for images in _images(y_pixels, len(y), len(self.parameters.linear1_weight)):
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
            memory = self.scratch.take('hidden', _longest_chunk(pixels, hidden_dim), hidden_dim, y)
        for chunk in _chunks(pixels, hidden_dim):
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
        for chunk in _chunks(pixels, hidden_dim):
            product, bias = linear_with_pending_bias(
                self._normed(y[chunk]), p.linear1_weight, p.linear1_bias, hidden[chunk]
            )
            pointwise.gelu(product, bias, hidden[chunk], squares)
        norms = squares.sqrt_()
        scale = grn_scale(norms, gamma) * self.drop_path_scale
        bias = torch.addmv(p.linear2_bias, p.linear2_weight, beta)
        weight, bias = p.linear2_weight * scale, bias * self.drop_path_scale
        for chunk in _chunks(pixels, hidden_dim):
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


class _Kept(NamedTuple):
    """The samples that drop path keeps (None: all), and what it multiplies their branch by."""

    samples: Tensor | None
    scale: float
    visible: VisibleCells | None
    """The cells of these samples, of which the maps are stacks; None: the maps are whole."""

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None
    ) -> Tensor:
        """:func:`.depthwise.convolve` of the kept samples."""
        if self.visible is None:
            return depthwise.convolve(x, weight, bias, plus=plus)
        y = self.visible.gather(depthwise.convolve(self.visible.scatter(x), weight, bias))
        return y if plus is None else y.add_(plus)

    def weight_gradient(self, x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        """:func:`.depthwise.weight_gradient` of the kept samples."""
        if self.visible is not None:
            x, grad = self.visible.scatter(x), self.visible.scatter(grad)
        return depthwise.weight_gradient(x, grad, weight)

    def select(self, x: Tensor) -> Tensor:
        """The kept samples of ``x``."""
        if self.samples is None:
            return x
        return x.index_select(0, self.samples).contiguous(memory_format=torch.channels_last)


def _kept_samples(mask: Tensor | None, visible: VisibleCells | None) -> _Kept:
    if mask is None:
        return _Kept(None, 1.0, visible)
    mask = mask.flatten()
    samples = mask.nonzero().flatten()
    if not len(samples):
        return _Kept(samples, 0.0, visible)
    scale = float(mask[samples[0]])
    if len(samples) == len(mask):
        return _Kept(None, scale, visible)
    return _Kept(samples, scale, visible and visible.of_samples(samples))


class _Output(NamedTuple):
    out: Tensor
    y: Tensor | None
    """The convolution's output for the samples that drop path keeps; None if it keeps none."""
    norms: Tensor | None
    """GRN's, ``(N, 4 C)``."""


def _forward(x: Tensor, kept: _Kept, eps: float, parameters: BlockParameters) -> _Output:
    if kept.samples is not None and not len(kept.samples):
        return _Output(x.clone(), None, None)
    part = kept.select(x)
    y = kept.convolve(part, parameters.conv_weight, parameters.conv_bias)
    added = torch.empty_like(part) if kept.samples is None else part
    norms = _Branch(parameters, eps, kept.scale, Scratch()).add(part, y, added)
    out = added if kept.samples is None else x.clone().index_copy_(0, kept.samples, added)
    return _Output(out, y, norms)


class BlockFunction(torch.autograd.Function):
    """A block that saves two maps for its backward pass: its input and the convolution's output."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mask: Tensor | None,
        eps: float,
        visible: VisibleCells | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        kept = _kept_samples(mask, visible)
        block_parameters = BlockParameters(*parameters)  # type: ignore[arg-type]
        out, y, norms = _forward(x, kept, eps, block_parameters)
        ctx.eps, ctx.drop_path_scale, ctx.visible = eps, kept.scale, kept.visible
        ctx.save_for_backward(x, y, kept.samples, norms, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, samples, norms, *tensors = ctx.saved_tensors
        parameters = BlockParameters(*tensors)
        kept = _Kept(samples, ctx.drop_path_scale, ctx.visible)
        grad = grad.contiguous(memory_format=torch.channels_last)
        if y is None:  # all samples were dropped
            return (
                grad,
                None,
                None,
                None,
                *(None if p is None else torch.zeros_like(p) for p in tensors),
            )
        branch = _BranchBackward(parameters, ctx.eps, kept.scale)
        grad_y = branch.run(kept.select(grad), y, norms)
        conv_bias = _sum_of(pixels_of(grad_y))
        conv_weight = None
        if ctx.needs_input_grad[4]:
            conv_weight = kept.weight_gradient(kept.select(x), grad_y, parameters.conv_weight)
        grad_x = None
        if ctx.needs_input_grad[0]:
            # The gradient of a convolution's input is the convolution with the flipped kernel.
            kernel = parameters.conv_weight.flip(2, 3)
            residual = grad if samples is None else None
            grad_x = kept.convolve(grad_y, kernel, None, plus=residual)
            if samples is not None:
                grad_x = grad.clone().index_add_(0, samples, grad_x)
        return grad_x, None, None, None, conv_weight, conv_bias, *branch.grads


def _sum_of(pixels: Tensor) -> Tensor:
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


class _BranchBackward:
    """The backward pass of :class:`_Branch`, which sums up gradients of parameters over chunks."""

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
            for images in _images(y_pixels, len(y), self.hidden_dim):
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
        longest = _longest_chunk(pixels, self.hidden_dim)
        buffers = [
            self.scratch.take(name, longest, self.hidden_dim, y)
            for name in ('hidden', 'grad_hidden')
        ]
        product = torch.empty_like(p.linear2_weight.t())  # of hidden activations and grad_out
        for chunk in _chunks(pixels, self.hidden_dim):
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
        longest = _longest_chunk(pixels, self.hidden_dim)
        buffer = self.scratch.take('grad_hidden', longest, self.hidden_dim, y)
        product = self.scratch.take('product', self.hidden_dim, len(p.linear2_bias), y)
        before_gelu = []
        grad_bias = torch.zeros_like(p.linear2_bias)
        for chunk in _chunks(pixels, self.hidden_dim):
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
        for chunk, (before, bias) in zip(_chunks(pixels, self.hidden_dim), before_gelu):
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
        before, bias = linear_with_pending_bias(
            normed[0], p.linear1_weight, p.linear1_bias, before
        )
        pointwise.gelu(before, bias, hidden)
        grad_hidden = linear(grad_out, p.linear2_weight.t(), grad_hidden)
        dot = torch.linalg.vecdot(hidden.view(by_image), grad_hidden.view(by_image), dim=1)
        gamma, beta = p.grn_gamma.flatten(), p.grn_beta.flatten()
        grn = grn_backward(norms, gamma, dot * self.drop_path_scale)
        scale = (grn_scale(norms, gamma) * self.drop_path_scale)[:, None]
        hidden.view(by_image).mul_(scale)
        _add_product(grads.linear2_weight, grad_out, hidden, self.is_first_product)
        grad_bias = _sum_of(grad_out).mul_(self.drop_path_scale)
        grads.linear2_weight.addr_(grad_bias, beta)
        grads.linear2_bias.add_(grad_bias)
        grads.grn_beta.view(-1).add_(grad_bias @ p.linear2_weight)
        grads.grn_gamma.view(-1).add_(grn.gamma.sum(0))
        grad_hidden.view(by_image).mul_(scale)
        for image in range(count):
            pixels = slice(image * len(y) // count, (image + 1) * len(y) // count)
            pointwise.gelu_backward_(
                before[pixels], bias, grad_hidden[pixels], grads.linear1_bias, grn.coefficient[image]
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
