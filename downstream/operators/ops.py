"""mmcv's compiled operators, on torchvision and PyTorch: mmdet and mmseg run without a compiler.

mmcv's Python code calls its operators in the extension module ``mmcv._ext``, which the module made here
replaces. It has the operators that the detectors and segmenters of this suite need, on CPU and CUDA and
for every floating-point type. Calling any other operator raises an error that names it.
:mod:`downstream.operators.finder` installs the module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision
from torch import Tensor

from backbones.kernels.detection.roi_align import RoIAlign
from backbones.kernels.detection.soft_nms import soft_nms

from .carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from .deform_attention import ms_deform_attn_backward, ms_deform_attn_forward
from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from .dtypes import compute_dtype
from .masked_conv import masked_col2im_forward, masked_im2col_forward
from .psa_mask import psamask_backward, psamask_forward


def make_module(spec: ModuleSpec) -> ModuleType:
    """The module that replaces ``mmcv._ext``."""
    module = _Operators(spec.name, __doc__)
    for operator in OPERATORS:
        setattr(module, operator.__name__, operator)
    return module


def hide_from_compiler() -> None:
    """Let operators run as they are within compiled code, as those of a compiled mmcv do.

    Otherwise ``torch.compile`` traces their Python, and stops at it.
    """
    module = sys.modules.get('mmcv._ext')
    if isinstance(module, _Operators):
        for operator in OPERATORS:
            setattr(module, operator.__name__, torch.compiler.disable(operator))


class _Operators(ModuleType):
    """A module whose missing operators can be imported, but raise an error when called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('_'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f'the mmcv operator {name!r} needs a compiled mmcv, which is not installed. Available '
                f'without it: {", ".join(operator.__name__ for operator in OPERATORS)}. '
                'Build onedl-mmcv from source to get the others.'
            )

        missing.__name__ = name
        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(N, 4)``: x1, y1, x2, y2; the width of a box is ``x2 - x1 + offset``.
        scores: ``(N,)``.
        iou_threshold: A box is suppressed if its IoU with a better one is larger.
        offset: 0 or 1.

    Returns:
        Indices of the kept boxes, best first, ``(K,)``.
    """
    boxes = boxes.to(compute_dtype(boxes.dtype))
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017, arXiv 1704.04503) on the CPU.

    See :func:`backbones.kernels.detection.soft_nms.soft_nms` for the arguments. Writes the ``K`` kept
    boxes with their new scores into the first rows of ``dets`` ``(N, 5)`` and returns their indices
    ``(K,)``.
    """
    kept, lowered = soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset)
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = lowered
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every kept box with the boxes that it suppresses.

    Args:
        dets: ``(N, 5)``: x1, y1, x2, y2, score.
        iou_threshold: IoU from which a box is suppressed.

    Returns:
        Indices of the boxes of each group, the kept box first.
    """
    dets = dets.to(compute_dtype(dets.dtype)).cpu()
    iou = torchvision.ops.box_iou(dets[:, :4], dets[:, :4])
    order = dets[:, 4].argsort(descending=True, stable=True)
    remaining = torch.ones(len(dets), dtype=torch.bool)
    groups = []
    for index in order.tolist():
        if remaining[index]:
            remaining[index] = False
            members = order[remaining[order] & (iou[index, order] >= iou_threshold)]
            remaining[members] = False
            groups.append([index, *members.tolist()])
    return groups


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al. 2017) of ``input`` ``(N, C, H, W)`` at ``rois`` ``(K, 5)``, to ``output``."""
    _require_average(pool_mode)
    dtype = compute_dtype(input.dtype)
    align = RoIAlign((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    output.copy_(align(input.to(dtype), rois.to(dtype)))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` with respect to its input to ``grad_input``."""
    _require_average(pool_mode)
    dtype = compute_dtype(grad_output.dtype)
    align = RoIAlign((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(align.back(grad_output.to(dtype), rois.to(dtype), grad_input.shape))


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign(pool_mode='max') needs a compiled mmcv; torchvision has pool_mode='avg' only."
        )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss (Lin et al. 2017, equation 5) of every logit to ``output``.

    Args:
        input: Logits, ``(N, C)``.
        target: Class indices, ``(N,)``; ``C`` is the background.
        weight: Weight of each class, ``(C,)``; may be empty.
        output: ``(N, C)``.
        gamma: Focusing parameter.
        alpha: Weight of the positive class.
    """
    output.copy_(_focal_loss(input.to(compute_dtype(input.dtype)), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the sum of the focal losses with respect to the logits to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().to(compute_dtype(input.dtype)).requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def _focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    classes = torch.arange(logits.shape[1], device=logits.device)
    one_hot = (target[:, None] == classes).to(logits.dtype)
    loss = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha, gamma, reduction='none')
    if weight.numel():
        target_weight = torch.cat([weight, weight.new_ones(1)])[target]
        loss = loss * target_weight[:, None].to(loss.dtype)
    return loss


OPERATORS = (
    nms,
    softnms,
    nms_match,
    roi_align_forward,
    roi_align_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
    masked_im2col_forward,
    masked_col2im_forward,
    carafe_naive_forward,
    carafe_naive_backward,
    carafe_forward,
    carafe_backward,
    deform_roi_pool_forward,
    deform_roi_pool_backward,
    psamask_forward,
    psamask_backward,
)
