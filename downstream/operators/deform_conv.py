"""mmcv's deformable convolutions, on torchvision's, which has both versions in one operator."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from backbones.upstream import required

from .dtypes import compute_dtype

_backward = required('torch.ops.torchvision._deform_conv2d_backward')


@dataclass(frozen=True)
class _Convolution:
    """Geometry of a convolution, each pair height before width."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int

    def __call__(
        self,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """The result; without a mask it is not modulated."""
        sources, words = self._arguments(input, weight, offset, mask, bias)
        return torch.ops.torchvision.deform_conv2d(*sources, *words)

    def gradients(
        self,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Those of the five tensors of :meth:`__call__`."""
        sources, words = self._arguments(input, weight, offset, mask, bias)
        return _backward(grad_output.to(sources[0].dtype), *sources, *words)

    def _arguments(
        self,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], tuple[int | bool, ...]]:
        """torchvision's. It has no bfloat16, and float16 rounds coordinates: float32."""
        dtype, modulated = compute_dtype(input.dtype), mask is not None
        if mask is None:
            mask = input.new_zeros(input.shape[0], 0)
        if bias is None:
            bias = input.new_zeros(weight.shape[0])
        numbers = (*self.stride, *self.padding, *self.dilation, self.groups, self.offset_groups)
        sources = tuple(tensor.to(dtype) for tensor in (input, weight, offset, mask, bias))
        return sources, (*numbers, modulated)


@dataclass(frozen=True)
class _WeightGradient:
    """A gradient that a call computed for the next one."""

    grad_output: weakref.ref[Tensor]
    version: int
    value: Tensor


# Of each node of a graph, which its scratch tensor ``columns`` stands for.
_computed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write a deformable convolution (Dai et al. 2017, arXiv 1703.06211) to ``output``.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(O, C / group, kH, kW)``.
        offset: y, x of each pixel of the kernel, ``(N, 2 * deformable_group * kH * kW, *size)``.
        output: ``(N, O, *size)``.
        columns, ones, im2col_step: Not read.
        dW, dH: Stride.
    """
    convolution = _Convolution(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    output.copy_(convolution(input, weight, offset, None, None))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write two gradients of :func:`deform_conv_forward` to ``grad_input`` and ``grad_offset``.

    torchvision computes that of the weights with them. mmcv asks for it next, with the same ``columns``.
    """
    convolution = _Convolution(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    grads = convolution.gradients(grad_output, input, weight, offset, None, None)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    reference = weakref.ref(grad_output)
    _computed[columns] = _WeightGradient(reference, grad_output._version, grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the third gradient of :func:`deform_conv_forward` to ``grad_weight``."""
    known = _computed.pop(columns, None)
    if known and known.grad_output() is grad_output and known.version == grad_output._version:
        grad_weight.add_(known.value.to(grad_weight.dtype), alpha=scale)
        return
    convolution = _Convolution(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    # The values of the weights do not matter to their gradient.
    grads = convolution.gradients(grad_output, input, grad_weight, offset, None, None)
    grad_weight.add_(grads[1].to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write a modulated deformable convolution (Zhu et al. 2019, arXiv 1811.11168) to ``output``.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(O, C / group, kernel_h, kernel_w)``.
        bias: ``(O,)``; read if ``with_bias``.
        ones, columns: Not read.
        offset: y, x of each pixel of the kernel, ``(N, 2 * K, *size)`` with
            ``K = deformable_group * kernel_h * kernel_w``. Of a larger map mmcv reads the first numbers
            of each image in memory as those of a map of this size, and trained DyHeads expect that.
        mask: Factor of each pixel of the kernel, ``(N, K, *size)``; of a larger map as ``offset``.
        output: ``(N, O, *size)``.
    """
    convolution = _Convolution(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    size = output.shape[2:]
    offset, mask = _first_of(offset, size), _first_of(mask, size)
    output.copy_(convolution(input, weight, offset, mask, bias if with_bias else None))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients of :func:`modulated_deform_conv_forward` to the tensors named ``grad_``."""
    convolution = _Convolution(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    size = grad_output.shape[2:]
    read = (_first_of(offset, size), _first_of(mask, size))
    tensors = (input, weight, *read, bias if with_bias else None)
    grads = convolution.gradients(grad_output, *tensors)
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    for into, grad in ((grad_offset, grads[2]), (grad_mask, grads[3])):
        if into.shape == grad.shape:
            into.copy_(grad)
        else:
            numbers = grad.flatten(1)
            rest = numbers.new_zeros(len(numbers), into[0].numel() - numbers.shape[1])
            into.copy_(torch.cat([numbers, rest], 1).view(into.shape))
    if with_bias:
        grad_bias.copy_(grads[4])


def _first_of(tensor: Tensor, size: torch.Size) -> Tensor:
    """``(N, C, *size)``, the first numbers of each image of ``(N, C, H, W)``; itself if that is its size.

    A map that is smaller is for the operator to refuse.
    """
    images, channels = tensor.shape[:2]
    numbers = channels * size.numel()
    if tensor.shape[2:] == size or tensor[0].numel() < numbers:
        return tensor
    return tensor.flatten(1)[:, :numbers].view(images, channels, *size)
