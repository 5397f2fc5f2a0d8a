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

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.kernels.layers import depthwise, pointwise

from ..block import Block
from ..visible import VisibleCells
from .chunks import Scratch
from .conditions import (
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
from .cpu_branch import Branch
from .cpu_branch_backward import BranchBackward, sum_of
from .switch import FusedSwitch, fused_switch


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
        Branch(parameters, None, 1.0, self._scratch).add(x, normed, self._output)
        return self._output


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
    norms = Branch(parameters, eps, kept.scale, Scratch()).add(part, y, added)
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
        branch = BranchBackward(parameters, ctx.eps, kept.scale)
        grad_y = branch.run(kept.select(grad), y, norms)
        conv_bias = sum_of(pixels_of(grad_y))
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
