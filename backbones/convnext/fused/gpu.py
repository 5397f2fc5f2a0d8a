"""ConvNeXt's blocks on a GPU, fused: fewer passes over memory, and less saved for the backward pass.

Feature maps are in channels_last memory format; the convolution is cuDNN's and the matrix products are
cuBLAS's, in autocast's dtype where it is on. The operators between them are fused
(:mod:`backbones.kernels.layers.triton_pointwise`): LayerNorm, GELU with the sums that GRN and its
gradient need, and layer scale and drop path with the residual. GRN's scale is multiplied into the weight
of the second linear layer, one weight for each image, so that GRN takes no pass of its own. For the
backward pass a block saves the convolution's input and output and the hidden activations before GELU, but
nothing computed from these.

Off by default: these blocks have not been measured on a GPU (:mod:`.switch`).
:func:`can_run_fused` states the other conditions; where they do not hold, a block's modules run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.kernels.eager import is_plain_eager

from ..block import Block
from .conditions import (
    BlockParameters,
    as_map,
    drops_paths,
    has_plain_parameters,
    is_unmodified,
    needs_gradient,
    parameters_of,
    pixels_of,
)
from .grn import grn_backward, grn_scale
from .switch import FusedSwitch, fused_switch

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Allowed beside twice the error of the modules, relative to the largest value; TF32 may be on.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def can_run_fused(block: Block, x: Tensor) -> bool:
    """Whether :func:`run` may replace ``block``'s modules and computes what they would."""
    return (
        _is_on_gpu(x)
        and is_plain_eager(x)
        and 'gpu' in fused_switch().devices
        and x.dtype in _DTYPES
        and is_unmodified(block)
        and has_plain_parameters(block, x, None if _is_autocast(x) else x.dtype)
        and not failure(x.device, _compute_dtype(x))
    )


def obstacle(
    device: torch.device, dtype: torch.dtype, autocast: bool, switch: FusedSwitch
) -> str | None:
    """Why no block runs fused on such input; None where blocks do."""
    if 'gpu' not in switch.devices:
        if switch.source == 'the default':
            return (
                'the fused blocks for GPUs are off by default, because their speed has not been '
                'measured; CONVNEXT_FUSED=1 or backbones.set_fused(True) switches them on'
            )
        return f'switched off by {switch.source}'
    if dtype not in _DTYPES:
        return 'the fused blocks are for float32, float16 and bfloat16'
    return failure(device, dtype)


def description() -> str:
    """What computes the fused blocks."""
    return 'Triton kernels'


def run(block: Block, x: Tensor) -> Tensor:
    """``block(x)``: ``(N, C, H, W)`` to ``(N, C, H, W)`` in channels_last memory format."""
    mask = None
    if drops_paths(block):
        # The module's own random numbers, for each sample 0 or 1 / (1 - p).
        mask = block.drop_path(x.new_ones(len(x), 1, dtype=torch.float32))
    parameters = parameters_of(block)
    # Layer scale is a parameter, and not in autocast's dtype.
    branch_dtype = _compute_dtype(x) if block.gamma is None else block.gamma.dtype
    dtypes = _Dtypes(_compute_dtype(x), torch.promote_types(x.dtype, branch_dtype))
    if needs_gradient(block, x):
        return BlockFunction.apply(x, mask, block.norm.eps, dtypes, *parameters)
    return _forward(x, mask, block.norm.eps, dtypes, parameters)[0]


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _is_autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of convolution and matrix products."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


@functools.cache
def failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fused blocks do not give what their modules do on this device; None if they do.

    Tried once for each device and dtype. In a thread of its own, because modes of the calling thread
    must not reach the trial: saved-tensor hooks (activation checkpointing), autocast, inference mode.
    """
    if importlib.util.find_spec('triton') is None:
        return 'Triton is not installed'
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_try, device, dtype).result()


def _try(device: torch.device, dtype: torch.dtype) -> str | None:
    """Compare small blocks with their modules in float32; what is wrong, or None."""
    on_device = torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()
    try:
        with on_device:
            for use_grn in (False, True):
                problem = _compare(*_example(device, use_grn), dtype)
                if problem:
                    return problem
    except Exception as error:  # whatever compiler and driver raise
        return f'{type(error).__name__}: {str(error).strip()[:300]}'
    return None


def _compare(block: Block, x: Tensor, dtype: torch.dtype) -> str | None:
    exact = _results(block, x, block)
    block, x = block.to(dtype), x.to(dtype)
    modules = _results(block, x, block)
    fused = _results(block, x, functools.partial(run, block))
    for found, reference, true in zip(fused, modules, exact):
        error, usual_error = (float((y - true).abs().max()) for y in (found, reference))
        allowed = 2 * usual_error + _TOLERANCE[dtype] * float(true.abs().max())
        if not error <= allowed:  # also if it is NaN
            return f'their error is {error:.1e}, that of the modules {usual_error:.1e}'
    return None


def _example(device: torch.device, use_grn: bool) -> tuple[Block, Tensor]:
    """A small block and its input, without random numbers: a run may depend on their state."""
    with torch.device('meta'):
        block = Block(40, 0.0, 0.0 if use_grn else 1.0, use_grn)
    block = block.to(torch.float32).to_empty(device=device)
    ramp = functools.partial(torch.linspace, dtype=torch.float32, device=device)
    for index, parameter in enumerate(block.parameters(), 1):
        values = ramp(0, 60 + index, parameter.numel()).cos()
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 9
        parameter.data.copy_(values.view_as(parameter) / fan_in**0.5)
    return block, ramp(-40, 40, 2 * 40 * 9 * 8).sin().view(2, 40, 9, 8)


def _results(block: Block, x: Tensor, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Output and gradients, in float32."""
    x = x.detach().requires_grad_()
    y = compute(x)
    grads = torch.autograd.grad(y, [x, *block.parameters()], y.detach().roll(1, 2))
    return [tensor.detach().float() for tensor in (y, *grads)]


class _Dtypes(NamedTuple):
    compute: torch.dtype
    out: torch.dtype


class SavedForBackward(NamedTuple):
    """What a forward pass saves for the backward pass."""

    x: Tensor  # (N, C, H, W), the convolution's input
    y: Tensor  # (N, C, H, W), its output
    hidden: Tensor  # (N H W, 4 C), before GELU
    branch: Tensor | None  # (N H W, C), only for the gradient of layer scale
    scale: Tensor | None  # (N, C), of layer scale and drop path
    norms: Tensor | None  # (N, 4 C), GRN's


def _forward(
    x: Tensor,
    mask: Tensor | None,
    eps: float,
    dtypes: _Dtypes,
    p: BlockParameters,
) -> tuple[Tensor, SavedForBackward]:
    from backbones.kernels.layers import triton_pointwise as kernels

    dtype, count = dtypes.compute, len(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x.contiguous(memory_format=torch.channels_last)
        conv_input = x.to(dtype)
        conv = p.conv_weight.to(dtype), p.conv_bias.to(dtype)
        y = F.conv2d(conv_input, *conv, padding=3, groups=x.shape[1])
        y = y.contiguous(memory_format=torch.channels_last)
        normed = kernels.layer_norm(pixels_of(y), p.norm_weight, p.norm_bias, eps)
        hidden = torch.addmm(p.linear1_bias.to(dtype), normed, p.linear1_weight.to(dtype).t())
        shift = norms = None
        if p.grn_gamma is None or p.grn_beta is None:
            weight, bias = p.linear2_weight.to(dtype), p.linear2_bias.to(dtype)
            branch = torch.addmm(bias, F.gelu(hidden), weight.t())
        else:
            active, squares = kernels.gelu(hidden, count)
            norms = squares.sqrt_()
            weight = _weight_of_images(p, grn_scale(norms, p.grn_gamma.float().flatten()))
            active = active.view(count, -1, active.shape[1])
            branch = torch.bmm(active, weight.to(dtype).mT).flatten(0, 1)
            beta = p.grn_beta.float().flatten()
            shift = p.linear2_bias.float() + p.linear2_weight.float() @ beta
            shift = (shift.expand(count, -1) * (1.0 if mask is None else mask)).contiguous()
        scale = _branch_scale(p, mask, x)
        out = kernels.add_branch(pixels_of(x), branch, count, dtypes.out, scale, shift)
    saved_branch = None if p.layer_scale is None else branch
    return as_map(out, x), SavedForBackward(conv_input, y, hidden, saved_branch, scale, norms)


def _branch_scale(p: BlockParameters, mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Layer scale times drop path's mask ``(N, C)`` in float32; None if there is neither."""
    if p.layer_scale is None:
        return None if mask is None else mask.expand(-1, x.shape[1]).contiguous()
    scale = p.layer_scale.float().expand(len(x), -1)
    return (scale * (1.0 if mask is None else mask)).contiguous()


def _weight_of_images(p: BlockParameters, scale: Tensor) -> Tensor:
    """The second layer's weight times GRN's scale ``(N, 4 C)``: ``(N, C, 4 C)`` in float32."""
    return p.linear2_weight.float() * scale[:, None]


class BlockFunction(torch.autograd.Function):
    """A block that saves the convolution's input and output and the hidden activations before GELU."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mask: Tensor | None,
        eps: float,
        dtypes: _Dtypes,
        *parameters: Tensor | None,
    ) -> Tensor:
        out, saved = _forward(x, mask, eps, dtypes, BlockParameters(*parameters))  # type: ignore[arg-type]
        ctx.eps, ctx.x_dtype = eps, x.dtype
        ctx.save_for_backward(mask, *saved, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        mask, *tensors = ctx.saved_tensors  # read once: activation checkpointing allows no more
        count = len(SavedForBackward._fields)
        saved, parameters = SavedForBackward(*tensors[:count]), BlockParameters(*tensors[count:])
        grad = grad.contiguous(memory_format=torch.channels_last)
        with torch.autocast(grad.device.type, enabled=False):
            grad_y, grads = _branch_backward(grad, saved, mask, ctx.eps, parameters)
            grad_x, conv_weight, conv_bias = _convolution_backward(
                grad_y, saved.x, parameters.conv_weight, needs_grad_x=ctx.needs_input_grad[0]
            )
            if grad_x is not None:
                grad_x = (grad + grad_x).to(ctx.x_dtype)
        grads = grads._replace(conv_weight=conv_weight, conv_bias=conv_bias)
        in_dtype = (
            None if p is None or g is None else g.to(p.dtype).view_as(p)
            for g, p in zip(grads, parameters)
        )
        return grad_x, None, None, None, *in_dtype


class _Gradients(NamedTuple):
    """Gradients of a block's parameters, in the order of :class:`BlockParameters`."""

    conv_weight: Tensor | None = None
    conv_bias: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    linear1_weight: Tensor | None = None
    linear1_bias: Tensor | None = None
    linear2_weight: Tensor | None = None
    linear2_bias: Tensor | None = None
    layer_scale: Tensor | None = None
    grn_gamma: Tensor | None = None
    grn_beta: Tensor | None = None


def _branch_backward(
    grad: Tensor, saved: SavedForBackward, mask: Tensor | None, eps: float, p: BlockParameters
) -> tuple[Tensor, _Gradients]:
    """Gradients of the convolution's output and of all parameters but the convolution's.

    The dtypes are those that the products have.
    """
    from backbones.kernels.layers import triton_pointwise as kernels

    dtype, count = saved.x.dtype, len(saved.x)
    grad_branch, dot_branch, grad_sums = kernels.add_branch_backward(
        pixels_of(grad), saved.branch, count, dtype, saved.scale
    )
    linear2_bias = (grad_sums if saved.scale is None else grad_sums * saved.scale).sum(0)
    if p.grn_gamma is None:
        grad_hidden, grads = _mlp_backward(grad_branch, saved.hidden, count, p)
        if p.layer_scale is not None:
            layer_scale = (dot_branch if mask is None else dot_branch * mask).sum(0)
            grads = grads._replace(layer_scale=layer_scale)
    else:
        grad_hidden, grads = _mlp_with_grn_backward(grad_branch, linear2_bias, saved, p)
    normed = kernels.layer_norm(pixels_of(saved.y), p.norm_weight, p.norm_bias, eps)
    grad_normed = torch.mm(grad_hidden, p.linear1_weight.to(dtype))
    grad_y, norm_weight, norm_bias = kernels.layer_norm_backward(
        grad_normed, pixels_of(saved.y), p.norm_weight, eps
    )
    grads = grads._replace(
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        linear1_weight=torch.mm(grad_hidden.t(), normed),
        linear2_bias=linear2_bias,
    )
    return as_map(grad_y, saved.y), grads


def _mlp_backward(
    grad_branch: Tensor, hidden: Tensor, count: int, p: BlockParameters
) -> tuple[Tensor, _Gradients]:
    """Gradient of the hidden activations before GELU, ``(N H W, 4 C)``, and of some parameters."""
    from backbones.kernels.layers import triton_pointwise as kernels

    grad_hidden = torch.mm(grad_branch, p.linear2_weight.to(hidden.dtype))
    linear1_bias, active = kernels.gelu_backward_(hidden, grad_hidden, count, returns_gelu=True)
    assert active is not None
    linear2_weight = torch.mm(grad_branch.t(), active)
    return grad_hidden, _Gradients(linear1_bias=linear1_bias, linear2_weight=linear2_weight)


def _mlp_with_grn_backward(
    grad_branch: Tensor, grad_bias: Tensor, saved: SavedForBackward, p: BlockParameters
) -> tuple[Tensor, _Gradients]:
    """The same with GRN; ``grad_bias`` ``(C,)`` is the gradient of the second layer's bias."""
    from backbones.kernels.layers import triton_pointwise as kernels

    assert p.grn_gamma is not None
    assert p.grn_beta is not None
    assert saved.norms is not None
    count, gamma, beta = len(saved.x), p.grn_gamma.float().flatten(), p.grn_beta.float().flatten()
    images = grad_branch.view(count, -1, grad_branch.shape[1])
    active = F.gelu(saved.hidden).view(count, -1, saved.hidden.shape[1])
    product = torch.bmm(images.mT, active).float()  # (N, C, 4 C)
    del active
    grn = grn_backward(saved.norms, gamma, dot=(p.linear2_weight.float() * product).sum(1))
    scale = grn_scale(saved.norms, gamma)
    weight = _weight_of_images(p, scale).to(grad_branch.dtype)
    grad_hidden = torch.bmm(images, weight).flatten(0, 1)
    linear1_bias, _ = kernels.gelu_backward_(saved.hidden, grad_hidden, count, grn.coefficient)
    return grad_hidden, _Gradients(
        linear1_bias=linear1_bias,
        linear2_weight=(product * scale[:, None]).sum(0).addr_(grad_bias, beta),
        grn_gamma=grn.gamma.sum(0),
        grn_beta=grad_bias @ p.linear2_weight.float(),
    )


def _convolution_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, needs_grad_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of input, weight and bias of the depthwise convolution."""
    channels, stride, padding = len(weight), [1, 1], [3, 3]
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight.to(x.dtype), [channels], stride, padding, stride, False, [0, 0], channels,
        [needs_grad_x, True, True],
    )  # fmt: skip
