"""mmcv's compiled operators on torchvision, so that mmdet and mmseg run without a compiler.

mmcv's Python side calls its operators in the extension module ``mmcv._ext``. :func:`install` puts a
finder behind Python's own, which answers for that module if no compiled one is there. The module has
the operators that the detectors and segmenters of this suite need, for CPU and CUDA and every
floating-point type; any other operator says which it is when it is called.

The environment variable ``CONVNEXT_OPS`` decides: ``auto`` (a compiled ``mmcv._ext`` wins),
``torchvision`` (this module even beside a compiled one) or ``compiled`` (an error without one).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import torch
import torchvision
from torch import Tensor

from backbones.errors import ConfigError

SWITCH = 'CONVNEXT_OPS'
_MODULE = 'mmcv._ext'


def install() -> None:
    """Make ``mmcv._ext`` importable; call it before the first import of ``mmdet`` or ``mmseg``.

    Raises:
        ConfigError: The switch has an unknown value or asks for what is not installed, or mmdet was
            imported too early and has settled for stubs.
    """
    choice = os.environ.get(SWITCH, 'auto')
    if choice not in ('auto', 'torchvision', 'compiled'):
        raise ConfigError(f'{SWITCH}={choice!r}: give auto, torchvision or compiled.')
    if _MODULE in sys.modules or any(isinstance(f, _Finder) for f in sys.meta_path):
        return
    compiled = find_spec('mmcv') is not None and find_spec(_MODULE) is not None
    if choice == 'compiled' and not compiled:
        raise ConfigError(
            f'{SWITCH}=compiled, but mmcv has no compiled operators; build onedl-mmcv from source '
            f'(half an hour with a C++ compiler), or set {SWITCH}=auto.'
        )
    if choice == 'compiled' or (choice == 'auto' and compiled):
        return
    early = [name for name in ('mmdet.structures', 'mmdet.models') if name in sys.modules]
    if early:
        raise ConfigError(
            f'{early[0]} was imported before downstream and found no operators; '
            'put `import downstream` above the first import of mmdet, mmseg and mmcv.ops.'
        )
    if choice == 'torchvision':
        sys.meta_path.insert(0, _Finder())
    else:
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the module ``mmcv._ext``, and no other."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(_MODULE, self, origin=__file__) if fullname == _MODULE else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Operators(spec.name, __doc__)

    def exec_module(self, module: ModuleType) -> None:
        for operator in OPERATORS:
            setattr(module, operator.__name__, operator)


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

    Overlapping boxes lose score instead of being dropped: by method 0 all of it above the threshold,
    by 1 ``1 - IoU`` above the threshold, by 2 ``exp(-IoU^2 / sigma)``. Writes the ``K`` survivors with
    their new scores into the first rows of ``dets`` ``(N, 5)`` and returns their indices ``(K,)``.
    """
    exact = _exact(boxes.dtype)
    corners, live_scores = boxes.to(exact), scores.to(exact).clone()
    areas = (corners[:, 2] - corners[:, 0] + offset) * (corners[:, 3] - corners[:, 1] + offset)
    live = torch.arange(len(corners))
    kept = []
    while live.numel():
        best = live[live_scores[live].argmax()]
        dets[len(kept), :4] = boxes[best]
        dets[len(kept), 4] = live_scores[best]
        kept.append(best)
        live = live[live != best]
        top_left = torch.maximum(corners[best, :2], corners[live, :2])
        bottom_right = torch.minimum(corners[best, 2:], corners[live, 2:])
        overlap = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
        iou = overlap / (areas[best] + areas[live] - overlap)
        if method == 2:
            weight = torch.exp(-(iou**2) / sigma)
        else:
            weight = torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        live_scores[live] *= weight
        live = live[live_scores[live] >= min_score]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)


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
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(exact),
            rois.to(exact),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


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
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(exact),
            rois.to(exact),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


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
