"""mmcv's compiled operators on torchvision, so that mmdet and mmseg run without a compiler.

mmcv's Python side calls its operators in the extension module ``mmcv._ext``; the one made here has those
that the detectors and segmenters of this suite need, for CPU and CUDA and every floating-point type. Any
other operator says which it is when it is called. :mod:`downstream.operators.finder` puts it in place.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision
from torch import Tensor

from backbones.kernels.roi_align import RoIAlign
from backbones.kernels.soft_nms import soft_nms


def make_module(spec: ModuleSpec) -> ModuleType:
    """The module that stands in for ``mmcv._ext``."""
    module = _Operators(spec.name, __doc__)
    for operator in OPERATORS:
        setattr(module, operator.__name__, operator)
    return module


class _Operators(ModuleType):
    """A module in which an operator that is not there can be looked up, but not called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('_'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f'the mmcv operator {name!r} needs the compiled mmcv, which is not installed; here '
                f'run {", ".join(operator.__name__ for operator in OPERATORS)}. '
                'Build onedl-mmcv from source to get the others.'
            )

        missing.__name__ = name
        return missing


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float16 and bfloat16 hold no pixel coordinate exactly."""
    return torch.promote_types(dtype, torch.float32)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that greedy suppression of ``IoU > iou_threshold`` keeps, best first.

    ``boxes`` is ``(N, 4)`` as x1, y1, x2, y2; a box is ``x2 - x1 + offset`` wide.
    """
    boxes = boxes.to(_exact(boxes.dtype))
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

    See :func:`backbones.kernels.soft_nms.soft_nms` for the arguments. Writes the ``K`` kept boxes with
    their new scores into the first rows of ``dets`` ``(N, 5)`` and returns their indices ``(K,)``.
    """
    kept, lowered = soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset)
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = lowered
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of overlapping boxes: each starts with its best box and holds those it suppresses.

    ``dets`` is ``(N, 5)``: x1, y1, x2, y2, score.
    """
    dets = dets.to(_exact(dets.dtype)).cpu()
    iou = torchvision.ops.box_iou(dets[:, :4], dets[:, :4])
    order = dets[:, 4].argsort(descending=True, stable=True)
    free = torch.ones(len(dets), dtype=torch.bool)
    groups = []
    for index in order.tolist():
        if free[index]:
            free[index] = False
            members = order[free[order] & (iou[index, order] >= iou_threshold)]
            free[members] = False
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
    """RoIAlign (He et al. 2017) of ``input`` ``(N, C, H, W)`` at ``rois`` ``(K, 5)`` into ``output``."""
    _require_average(pool_mode)
    exact = _exact(input.dtype)
    align = RoIAlign((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    output.copy_(align(input.to(exact), rois.to(exact)))


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
    """Gradient of :func:`roi_align_forward` by its input, added up into ``grad_input``."""
    _require_average(pool_mode)
    exact = _exact(grad_output.dtype)
    align = RoIAlign((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(align.back(grad_output.to(exact), rois.to(exact), grad_input.shape))


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign(pool_mode='max') needs the compiled mmcv; torchvision pools by 'avg' alone."
        )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al. 2017, equation 5) of logits ``(N, C)`` into ``output`` ``(N, C)``.

    ``target`` ``(N,)`` holds class indices, ``C`` meaning background; ``weight`` is ``(C,)`` or empty.
    """
    output.copy_(_focal_loss(input.to(_exact(input.dtype)), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the sum of :func:`sigmoid_focal_loss_forward` by its logits into ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().to(_exact(input.dtype)).requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def _focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    classes = torch.arange(logits.shape[1], device=logits.device)
    one_hot = (target[:, None] == classes).to(logits.dtype)
    loss = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha, gamma, reduction='none')
    if weight.numel():
        of_target = torch.cat([weight, weight.new_ones(1)])[target]
        loss = loss * of_target[:, None].to(loss.dtype)
    return loss


OPERATORS = (
    nms,
    softnms,
    nms_match,
    roi_align_forward,
    roi_align_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
)
