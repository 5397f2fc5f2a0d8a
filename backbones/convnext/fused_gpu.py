"""ConvNeXt's blocks on a GPU: the same mathematics in fewer passes over memory, and keeping less of it.

Maps lie channels last; the convolution is cuDNN's and the matrix products are cuBLAS's, in autocast's
dtype where it is on. What lies between them is fused (:mod:`backbones.kernels.triton_pointwise`):
LayerNorm, GELU with the sums that GRN and its gradient need, layer scale and drop path with the residual.
GRN's scale goes into the second linear layer's weight, an image at a time, so that GRN costs no pass of
its own. For the backward pass a block keeps the convolution's input and output and the hidden
activations before GELU, not
what follows from them.

:func:`fits` says where this is right; elsewhere a block is what its modules say.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.kernels.eager import is_unwatched

from .block import GRN_EPS, Block
from .fused_conditions import (
    as_map,
    has_plain_parameters,
    is_plain,
    needs_gradient,
    parameters_of,
    rows_of,
)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Relative to the largest value, beside what the modules themselves are away; TF32 may be on.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def fits(block: Block, x: Tensor) -> bool:
    """Whether the fused path computes what ``block``'s modules would.

    On CUDA, where Triton is and its kernels give the right results (tried once for each device and
    dtype), and as :func:`is_unwatched` and :func:`is_plain` say.
    """
    return (
        x.device.type == 'cuda'
        and x.dtype in _DTYPES
        and is_unwatched(x)
        and is_plain(block)
        and has_plain_parameters(block, x, None if _autocast(x) else x.dtype)
        and works(x.device, _dtype(x))
    )


def run(block: Block, x: Tensor) -> Tensor:
    """``block(x)``; ``x`` is ``(N, C, H, W)``, and so is the result, channels last."""
    mask = None
    if block.drop_path.is_active():
        mask = block.drop_path.draw(x.new_empty(len(x), 1, dtype=torch.float32))
    tensors = parameters_of(block)
    # gamma is a parameter, and not autocast's dtype
    added = block.gamma.dtype if block.gamma is not None else _dtype(x)
    dtypes = _dtype(x), torch.promote_types(x.dtype, added)
    if needs_gradient(block, x):
        return FusedBlock.apply(x, mask, block.norm.eps, dtypes, *tensors)
    return _forward(x, mask, block.norm.eps, dtypes, tensors)[0]


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _dtype(x: Tensor) -> torch.dtype:
    """Of convolution and products."""
    return torch.get_autocast_dtype(x.device.type) if _autocast(x) else x.dtype


@functools.cache
def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fused blocks give on this device what their modules do; if not, the log says why."""
    if importlib.util.find_spec('triton') is None:
        reason = 'Triton is not installed'
    else:
        reason = _tried(device, dtype)
    if reason:
        print_log(
            f'ConvNeXt blocks are not fused on {device} in {dtype}, which is slower: {reason}',
            'current',
            level=30,
        )
    return not reason


def _tried(device: torch.device, dtype: torch.dtype) -> str:
    """Compares small blocks with what their modules give in float32; what is wrong, or nothing."""
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            for use_grn in (False, True):
                block, x = _example(device, use_grn)
                exact = _results(block, x, block)
                block, x = block.to(dtype), x.to(dtype)
                plain = _results(block, x, block)
                fused = _results(block, x, functools.partial(run, block))
                for found, other, true in zip(fused, plain, exact):
                    away, usual = (float((y - true).abs().max()) for y in (found, other))
                    if not away <= 2 * usual + _TOLERANCE[dtype] * float(true.abs().max()):
                        return f'results differ by {away:.1e}, those of the modules by {usual:.1e}'
    except Exception as problem:  # whatever compiler and driver raise
        return f'{type(problem).__name__}: {str(problem).strip()[:300]}'
    return ''


def _example(device: torch.device, use_grn: bool) -> tuple[Block, Tensor]:
    """A small block and its input; takes no random numbers, which a run may count on."""
    with torch.device('meta'):
        block = Block(40, 0.0, 0.0 if use_grn else 1.0, use_grn)
    block = block.to_empty(device=device)
    for index, parameter in enumerate(block.parameters(), 1):
        values = torch.linspace(0, 60 + index, parameter.numel(), device=device).cos()
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 9
        parameter.data.copy_(values.view_as(parameter) / fan_in**0.5)
    return block, torch.linspace(-40, 40, 2 * 40 * 9 * 8, device=device).sin().view(2, 40, 9, 8)


def _results(block: Block, x: Tensor, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Output and gradients, in float32."""
    x = x.detach().requires_grad_()
    y = compute(x)
    grads = torch.autograd.grad(y, [x, *block.parameters()], y.detach().roll(1, 2))
    return [tensor.detach().float() for tensor in (y, *grads)]


@dataclass
class _Kept:
    """What a forward pass leaves for the backward pass."""

    x: Tensor
    y: Tensor
    hidden: Tensor
    branch: Tensor | None
    factor: Tensor | None
    norms: Tensor | None


def _forward(
    x: Tensor,
    mask: Tensor | None,
    eps: float,
    dtypes: tuple[torch.dtype, torch.dtype],
    tensors: tuple[Tensor | None, ...],
) -> tuple[Tensor, _Kept]:
    from backbones.kernels import triton_pointwise as gpu_kernels

    dtype, out_dtype = dtypes
    conv_weight, conv_bias, norm_weight, norm_bias, weight1, bias1 = tensors[:6]
    weight2, bias2, scale, shift = tensors[6:]
    count = len(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x.contiguous(memory_format=torch.channels_last)
        low = x.to(dtype)
        y = F.conv2d(low, conv_weight.to(dtype), conv_bias.to(dtype), padding=3, groups=x.shape[1])
        y = y.contiguous(memory_format=torch.channels_last)
        normed = gpu_kernels.norm(rows_of(y), norm_weight, norm_bias, eps)
        hidden = torch.addmm(bias1.to(dtype), normed, weight1.to(dtype).t())
        factor = mask
        norms = move = None
        if shift is None:
            if scale is not None:
                factor = scale.float().expand(count, -1) * (1.0 if mask is None else mask)
            elif mask is not None:
                factor = mask.expand(-1, x.shape[1])
            branch = torch.addmm(bias2.to(dtype), F.gelu(hidden), weight2.to(dtype).t())
        else:
            active, squares = gpu_kernels.gelu(hidden, count)
            norms = squares.sqrt_()
            weight = _weight_of_images(weight2, _grn(norms, scale)[0]).to(dtype)
            branch = torch.bmm(active.view(count, -1, weight2.shape[1]), weight.mT).flatten(0, 1)
            move = bias2.float() + weight2.float() @ shift.float().flatten()
            move = move.expand(count, -1) * (1.0 if mask is None else mask)
            factor = None if mask is None else mask.expand(-1, x.shape[1])
        factor = None if factor is None else factor.contiguous()
        move = None if move is None else move.contiguous()
        out = gpu_kernels.add_branch(rows_of(x), branch, count, out_dtype, factor, move)
    out = as_map(out, x)
    is_for_scale = scale is not None and shift is None
    return out, _Kept(low, y, hidden, branch if is_for_scale else None, factor, norms)


def _grn(norms: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What GRN multiplies by, ``(N, 4 C)``; norms relative to their mean; the mean."""
    level = norms.mean(1, keepdim=True) + GRN_EPS
    relative = norms / level
    return 1 + gamma.float().flatten() * relative, relative, level


def _weight_of_images(weight: Tensor, response: Tensor) -> Tensor:
    """The second layer's weight with GRN in it, ``(N, C, 4 C)`` in float32."""
    return weight.float() * response[:, None]


class FusedBlock(torch.autograd.Function):
    """A block that keeps the convolution's input and output, and the hidden activations once."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mask: Tensor | None,
        eps: float,
        dtypes: tuple[torch.dtype, torch.dtype],
        *tensors: Tensor | None,
    ) -> Tensor:
        out, kept = _forward(x, mask, eps, dtypes, tensors)
        ctx.eps, ctx.x_dtype = eps, x.dtype
        ctx.save_for_backward(
            kept.x, kept.y, kept.hidden, kept.branch, kept.factor, kept.norms, mask, *tensors
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a recomputed block gives them no second time
        kept, mask, tensors = saved[:6], saved[6], saved[7:]
        with torch.autocast(grad.device.type, enabled=False):
            grad_x, grads = _backward(
                grad, _Kept(*kept), mask, ctx.eps, tensors, ctx.needs_input_grad
            )
        if grad_x is not None:
            grad_x = grad_x.to(ctx.x_dtype)
        grads = [None if t is None else g.to(t.dtype).view_as(t) for g, t in zip(grads, tensors)]
        return grad_x, None, None, None, *grads


def _backward(
    grad: Tensor,
    kept: _Kept,
    mask: Tensor | None,
    eps: float,
    tensors: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the input and of the parameters, in whatever dtype they come."""
    from backbones.kernels import triton_pointwise as gpu_kernels

    conv_weight, _, norm_weight, norm_bias, weight1, _, weight2, _, scale, shift = tensors
    dtype, count, wide = kept.x.dtype, len(kept.x), weight2.shape[1]
    grad = grad.contiguous(memory_format=torch.channels_last)
    towards, along, total = gpu_kernels.add_branch_back(
        rows_of(grad), kept.branch, count, dtype, kept.factor
    )
    grad_bias2 = (total if kept.factor is None else total * kept.factor).sum(0)
    grad_scale = grad_shift = None
    if shift is None:
        if scale is not None:
            grad_scale = (along if mask is None else along * mask).sum(0)
        back = torch.mm(towards, weight2.to(dtype))
        grad_bias1, active = gpu_kernels.gelu_back_(kept.hidden, back, count, value=True)
        grad_weight2 = torch.mm(towards.t(), active)
    else:
        images = towards.view(count, -1, len(weight2))
        active = F.gelu(kept.hidden).view(count, -1, wide)
        product = torch.bmm(images.mT, active).float()
        del active
        response, relative, level = _grn(kept.norms, scale)
        both = (weight2.float() * product).sum(1)
        grad_weight2 = (
            (product * response[:, None]).sum(0).addr_(grad_bias2, shift.float().flatten())
        )
        grad_shift = grad_bias2 @ weight2.float()
        grad_scale = (relative * both).sum(0)
        pull = scale.float().flatten() * both
        pull = pull / level - (pull * kept.norms).sum(1, keepdim=True) / (level * level * wide)
        pull = torch.where(kept.norms > 0, pull / kept.norms, torch.zeros_like(pull))
        weight = _weight_of_images(weight2, response).to(dtype)
        back = torch.bmm(images, weight).flatten(0, 1)
        grad_bias1, _ = gpu_kernels.gelu_back_(kept.hidden, back, count, pull)
    normed = gpu_kernels.norm(rows_of(kept.y), norm_weight, norm_bias, eps)
    grad_weight1 = torch.mm(back.t(), normed)
    grad_y, *grad_norm = gpu_kernels.norm_back(
        torch.mm(back, weight1.to(dtype)), rows_of(kept.y), norm_weight, eps
    )
    grad_y = as_map(grad_y, kept.y)
    one, half, channels = [1, 1], [3, 3], len(conv_weight)
    grad_x, grad_conv, grad_conv_bias = torch.ops.aten.convolution_backward(
        grad_y, kept.x, conv_weight.to(dtype), [channels], one, half, one, False, [0, 0], channels,
        [needed[0], True, True],
    )  # fmt: skip
    if grad_x is not None:
        grad_x = grad + grad_x
    return grad_x, [
        grad_conv, grad_conv_bias, *grad_norm, grad_weight1, grad_bias1, grad_weight2, grad_bias2,
        grad_scale, grad_shift,
    ]  # fmt: skip
