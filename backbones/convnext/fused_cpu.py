"""ConvNeXt's blocks on a CPU: the same mathematics in fewer passes over memory, and keeping less of it.

Maps lie channels last, and the block's linear layers, norm and activation work on ``[pixels,
channels]`` in pieces that stay in the cache. Layer scale, and GRN's scale per image and channel, go into
the weight of the second linear layer, and the residual is where its product is added up. For the backward
pass a block keeps its input and the depthwise convolution's output; what lies between is computed again,
piece by piece. Nothing is kept from one call to the next, so that weights may change in any way at any
time.

:func:`fits` says where this is right; elsewhere a block is what its modules say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.kernels import depthwise
from backbones.kernels import pointwise as cpu_kernels
from backbones.kernels.eager import is_unwatched
from backbones.kernels.linear import activated, add_linear, brings_memory, hidden, linear

from .block import GRN_EPS, Block
from .fused_conditions import (
    as_map,
    has_plain_parameters,
    is_plain,
    needs_gradient,
    parameters_of,
    rows_of,
)

# Rows of a piece, and its hidden activations at most: few enough to stay in the cache that cores share
# and to come from memory that the process has, enough for products at full speed.
_PIECE, _PIECE_SIZE = 4096, 3 * 2**20


def is_usual(x: Tensor) -> bool:
    """Whether ``x`` is float32 or float64 on a CPU, without autocast, and nothing watches it."""
    return (
        x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and is_unwatched(x)
    )


def fits(block: Block, x: Tensor) -> bool:
    """Whether the fast path computes what ``block``'s modules would.

    Not where :func:`is_usual` says no, where somebody replaced a module of the block or hooked into one,
    or where parameters are of a class of their own.
    """
    return is_usual(x) and is_plain(block) and has_plain_parameters(block, x, x.dtype)


class Scratch:
    """Memory for what lies between the two linear layers, used by one block after the other.

    Large tensors are mapped afresh by the system each time they are made, which costs more than filling
    them.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """``(rows, columns)`` of whatever was in it before."""
        size = rows * columns
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size:
            memory = self._memory[name] = like.new_empty(size)
        return memory[:size].view(rows, columns)


def run(block: Block, x: Tensor) -> Tensor:
    """``block(x)``; ``x`` is ``(N, C, H, W)``, and so is the result, channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    mask = block.drop_path.draw(x) if block.drop_path.is_active() else None
    if needs_gradient(block, x):
        return BlockFunction.apply(x, mask, block.norm.eps, *parameters_of(block))
    return _forward(x, *_kept(mask), block.norm.eps, parameters_of(block))[0]


def may_overwrite(block: Block, x: Tensor) -> bool:
    """Whether :func:`add_branch_` computes what ``block`` would."""
    return not needs_gradient(block, x) and not block.drop_path.is_active() and fits(block, x)


def add_branch_(block: Block, x: Tensor, scratch: Scratch) -> Tensor:
    """Turn ``x``, channels last, into ``block(x)`` in its place; without gradients and drop path."""
    tensors = parameters_of(block)
    weight, bias, *norm = tensors[:4]
    memory = as_map(scratch.take('normed', *rows_of(x).shape, x), x)
    normed = depthwise.convolve(x, weight, bias, memory, norm=(*norm, block.norm.eps))
    _add_branch(x, x, normed, None, tensors, 1.0, scratch)
    return x


def _parts(count: int, wide: int) -> int:
    return max(1, round(count / min(_PIECE, max(1, _PIECE_SIZE // wide))))


def _pieces(count: int, wide: int) -> Iterator[slice]:
    """Even parts of ``count`` rows with ``wide`` hidden activations."""
    parts = _parts(count, wide)
    bounds = [count * i // parts for i in range(parts + 1)]
    return (slice(a, b) for a, b in pairwise(bounds))


def _longest(count: int, wide: int) -> int:
    """Rows of the longest of :func:`_pieces`."""
    return -(-count // _parts(count, wide))


def _normed(rows: Tensor, eps: float | None, tensors: tuple) -> Tensor:
    if eps is None:
        return rows
    return F.layer_norm(rows, tensors[2].shape, tensors[2], tensors[3], eps)


def _add_branch(
    x: Tensor,
    out: Tensor,
    y: Tensor,
    eps: float | None,
    tensors: tuple,
    factor: float,
    scratch: Scratch,
    sums: list | None = None,
) -> None:
    """Write into ``out`` the sum of ``x`` and ``factor`` times what follows the convolution's output.

    Args:
        x: Residual, channels last.
        out: Of its form, or ``x`` itself.
        y: The convolution's output.
        eps: LayerNorm's; none if ``y`` has been normed.
        tensors: As :func:`~backbones.convnext.fused_conditions.parameters_of`.
        factor: Of drop path.
        scratch: Memory.
        sums: Gets GRN's L2 norms ``(4 C,)`` of each image.
    """
    weight1, bias1, weight2, bias2, scale, shift = tensors[4:]
    wide = weight2.shape[1]
    residual, into, rows = rows_of(x), rows_of(out), rows_of(y)
    if shift is not None:
        size = len(rows) // len(x)
        for start in range(0, len(rows), size):
            image = slice(start, start + size)
            norms = _add_branch_of_image(
                residual[image], into[image], rows[image], eps, tensors, factor, scratch
            )
            if sums is not None:
                sums.append(norms)
        return
    scale = factor if scale is None else scale * factor
    column = scale[:, None] if isinstance(scale, Tensor) else scale
    # Scaling the weight costs 4 C x C, scaling the product pixels x C.
    folds = len(rows) > 2 * wide
    weight, bias = (weight2 * column, bias2 * scale) if folds else (None, None)
    memory = None
    if not brings_memory(x.dtype, weight1):
        memory = scratch.take('hidden', _longest(len(rows), wide), wide, x)
    for piece in _pieces(len(rows), wide):
        normed = _normed(rows[piece], eps, tensors)
        active = activated(
            normed, weight1, bias1, None if memory is None else memory[: len(normed)]
        )
        if folds:
            add_linear(active, weight, bias, residual[piece], into[piece])
        else:
            product = linear(active, weight2).add_(bias2).mul_(scale)
            torch.add(residual[piece], product, out=into[piece])


def _add_branch_of_image(
    residual: Tensor,
    into: Tensor,
    rows: Tensor,
    eps: float | None,
    tensors: tuple,
    factor: float,
    scratch: Scratch,
) -> Tensor:
    """The same with GRN, which looks at a whole image; its L2 norms ``(4 C,)``."""
    weight1, bias1, weight2, bias2, scale, shift = tensors[4:]
    wide = weight2.shape[1]
    memory = scratch.take('hidden', len(rows), wide, into)
    squares = into.new_zeros(wide)
    for piece in _pieces(len(rows), wide):
        active = memory[piece]
        product, bias = hidden(_normed(rows[piece], eps, tensors), weight1, bias1, active)
        cpu_kernels.gelu(product, bias, active, squares)
    norms = squares.sqrt_()
    response, bias = _grn(norms, scale), torch.addmv(bias2, weight2, shift.flatten())
    weight, bias = weight2 * (response * factor), bias * factor
    for piece in _pieces(len(rows), wide):
        add_linear(memory[piece], weight, bias, residual[piece], into[piece])
    return norms


def _grn(norms: Tensor, gamma: Tensor) -> Tensor:
    """By what GRN multiplies each channel of an image whose L2 norms are ``norms``."""
    return 1 + gamma.flatten() * (norms / (norms.mean() + GRN_EPS))


def _forward(
    x: Tensor, kept: Tensor | None, factor: float, eps: float, tensors: tuple
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Output; the convolved maps of the images that drop path keeps; GRN's norms."""
    if kept is not None and not len(kept):
        return x.clone(), None, []
    part = x if kept is None else _some(x, kept)
    y = depthwise.convolve(part, tensors[0], tensors[1])
    sums: list[Tensor] = []
    added = torch.empty_like(part) if kept is None else part
    _add_branch(part, added, y, eps, tensors, factor, Scratch(), sums)
    out = added if kept is None else x.clone().index_copy_(0, kept, added)
    return out, y, sums


def _kept(mask: Tensor | None) -> tuple[Tensor | None, float]:
    """Which images drop path keeps (None: all), and by what it multiplies them."""
    if mask is None:
        return None, 1.0
    kept = mask.flatten().nonzero().flatten()
    if not len(kept):
        return kept, 0.0
    return (None if len(kept) == len(mask) else kept), float(mask.flatten()[kept[0]])


def _some(x: Tensor, kept: Tensor) -> Tensor:
    return x.index_select(0, kept).contiguous(memory_format=torch.channels_last)


class BlockFunction(torch.autograd.Function):
    """A block whose backward pass keeps two maps: its input and the convolution's output."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor | None, eps: float, *tensors: Tensor | None) -> Tensor:
        kept, factor = _kept(mask)
        out, y, sums = _forward(x, kept, factor, eps, tensors)
        ctx.eps, ctx.factor = eps, factor
        ctx.save_for_backward(x, y, kept, torch.stack(sums) if sums else None, *tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, kept, norms, *tensors = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if y is None:  # drop path dropped all
            zeros = [None if t is None else torch.zeros_like(t) for t in tensors]
            return grad, None, None, *zeros
        part = grad if kept is None else _some(grad, kept)
        grads = _Gradients(tuple(tensors), ctx.eps, ctx.factor)
        if norms is None:
            grad_y = grads.through_mlp(rows_of(part), rows_of(y))
        else:
            size = len(rows_of(y)) // len(y)
            grad_y = torch.empty_like(rows_of(y))
            for index, start in enumerate(range(0, len(grad_y), size)):
                image = slice(start, start + size)
                grads.through_grn(
                    rows_of(part)[image], rows_of(y)[image], norms[index], grad_y[image]
                )
        grad_y = as_map(grad_y, y)
        weight = tensors[0]
        source = x if kept is None else _some(x, kept)
        grad_weight = (
            depthwise.weight_gradient(source, grad_y, weight) if ctx.needs_input_grad[3] else None
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            plus = grad if kept is None else None
            grad_x = depthwise.convolve(grad_y, weight.flip(2, 3), None, plus=plus)
            if kept is not None:
                grad_x = grad.clone().index_add_(0, kept, grad_x)
        return grad_x, None, None, grad_weight, _sum_of(rows_of(grad_y)), *grads.of_parameters()


def _sum_of(rows: Tensor) -> Tensor:
    return torch.mv(rows.t(), rows.new_ones(len(rows)))


def _add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """Add ``a^T b`` to ``total``, whose content does not count at first."""
    torch.addmm(total, a.t(), b, beta=0 if is_first else 1, out=total)


class _Gradients:
    """Adds up the gradients of norm, linear layers and scales over pieces of rows."""

    def __init__(self, tensors: tuple, eps: float, factor: float) -> None:
        self.norm_weight, self.norm_bias, self.weight1, self.bias1 = tensors[2:6]
        self.weight2, self.bias2, self.scale, self.shift = tensors[6:]
        self.eps, self.factor = eps, factor
        self.scratch = Scratch()
        self.grad_norm = [torch.zeros_like(self.norm_weight), torch.zeros_like(self.norm_bias)]
        self.grad1 = [torch.empty_like(self.weight1), torch.zeros_like(self.bias1)]
        self.grad2 = [torch.empty_like(self.weight2), torch.zeros_like(self.bias2)]
        self.grad_scale = None if self.scale is None else torch.zeros_like(self.scale)
        self.grad_shift = None if self.shift is None else torch.zeros_like(self.shift)
        self.is_first = True  # nothing has been added to the large ones

    def of_parameters(self) -> list[Tensor | None]:
        """In the order of :func:`parameters_of`, without the convolution's."""
        return [*self.grad_norm, *self.grad1, *self.grad2, self.grad_scale, self.grad_shift]

    def _normed(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.norm_weight.shape
        return torch.native_layer_norm(rows, shape, self.norm_weight, self.norm_bias, self.eps)

    def _back_from_hidden(self, grad: Tensor, rows: Tensor, normed: tuple, out: Tensor) -> None:
        """From the gradient of the hidden activations before GELU to that of ``rows``, into ``out``."""
        values, *moments = normed
        _add_product(self.grad1[0], grad, values, self.is_first)
        self.is_first = False
        back = linear(grad, self.weight1.t())
        cpu_kernels.norm_back(back, rows, moments, self.norm_weight, out, self.grad_norm)

    def through_mlp(self, grad: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the convolution's output from that of the block's; both ``(pixels, C)``."""
        out = torch.empty_like(rows)
        scale = self.factor if self.scale is None else self.scale * self.factor
        column = scale[:, None] if isinstance(scale, Tensor) else scale
        folds = len(rows) > len(self.bias1)
        weight = self.weight2 * column if folds else self.weight2
        wide = len(self.bias1)
        longest = _longest(len(rows), wide)
        memory = [self.scratch.take(name, longest, wide, rows) for name in ('before', 'back')]
        product, sums = torch.empty_like(self.weight2.t()), self.grad2[1]
        for piece in _pieces(len(rows), wide):
            count = piece.stop - piece.start
            before, back = (each[:count] for each in memory)
            normed = self._normed(rows[piece])
            before, bias = hidden(normed[0], self.weight1, self.bias1, before)
            back = linear(grad[piece] if folds else grad[piece] * scale, weight.t(), back)
            after = cpu_kernels.gelu_back_(before, bias, back, self.grad1[1])
            _add_product(product, after, grad[piece], self.is_first)
            sums.addmv_(grad[piece].t(), grad.new_ones(count))
            self._back_from_hidden(back, rows[piece], normed, out[piece])
        product = product.t()
        if self.scale is not None:
            # <gradient, branch> by channel, from sums that are there already
            self.grad_scale.copy_((product * self.weight2).sum(1).addcmul_(self.bias2, sums))
            self.grad_scale.mul_(self.factor)
        torch.mul(product, column, out=self.grad2[0])
        sums.mul_(scale)
        return out

    def through_grn(self, grad: Tensor, rows: Tensor, norms: Tensor, out: Tensor) -> None:
        """The same with GRN, of one image whose L2 norms are ``norms``, into ``out``."""
        count, wide = len(rows), len(self.bias1)
        memory = self.scratch.take('before', count, wide, rows)
        other = self.scratch.take('other', _longest(count, wide), wide, rows)
        befores = []
        product = self.scratch.take('product', wide, len(self.bias2), rows)
        sums = torch.zeros_like(self.bias2)
        for piece in _pieces(count, wide):
            normed = self._normed(rows[piece])
            before, bias = hidden(normed[0], self.weight1, self.bias1, memory[piece])
            befores.append((before, bias))
            after = cpu_kernels.gelu(before, bias, other[: len(before)])
            _add_product(product, after, grad[piece], piece.start == 0)
            sums.addmv_(grad[piece].t(), grad.new_ones(len(before)))
        sums.mul_(self.factor)
        product = product.t()
        gamma, beta = self.scale.flatten(), self.shift.flatten()
        level = norms.mean() + GRN_EPS
        relative = norms / level
        response = (1 + gamma * relative) * self.factor
        both = (self.weight2 * product).sum(0) * self.factor
        if self.is_first:
            torch.mul(product, response, out=self.grad2[0])
        else:
            self.grad2[0].addcmul_(product, response)
        self.grad2[0].addr_(sums, beta)
        self.grad2[1].add_(sums)
        self.grad_shift.view(-1).add_(sums @ self.weight2)
        self.grad_scale.view(-1).add_(relative * both)
        towards = gamma * both  # the relative norms
        towards = towards / level - (towards @ norms) / (level * level * wide)
        pull = torch.where(norms > 0, towards / norms, torch.zeros_like(norms))
        weight = self.weight2 * response
        for piece, (before, bias) in zip(_pieces(count, wide), befores):
            gradient = linear(grad[piece], weight.t(), other[: len(before)])
            cpu_kernels.gelu_back_(before, bias, gradient, self.grad1[1], pull)
            self._back_from_hidden(gradient, rows[piece], self._normed(rows[piece]), out[piece])
