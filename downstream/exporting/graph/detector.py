"""A two-stage detector as one graph: image -> boxes, scores, labels and masks.

mmdet's own ``predict`` cannot be exported: it branches on numbers of boxes, assigns in place and takes
sizes of images as Python numbers. :class:`DetectorGraph` runs the networks of the detector, and computes
what is between them by itself, with equal results.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .any_size import AnySize
from .boxes import Decoder, Length, grid_anchors, suppression
from .half import use_half
from .pooling import contiguous
from .roi_features import PyramidAlign
from .supported import check_detector, stages

# Boxes that are compared first, for each object that may be found: most of the best are the same objects.
_HEAD = 20


class Detections(NamedTuple):
    """Objects of one image, best first; of the length that they have, 0 included.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, ``(n, 4)``, float32.
        scores: ``(n,)``, float32.
        labels: Class indices, ``(n,)``, int64.
        masks: Probabilities within the box, ``(n, 28, 28)``, float32; None without a mask head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None


class DetectorGraph(nn.Module):
    """Faster, Mask, Cascade or Cascade Mask R-CNN, exportable by ``torch.onnx.export(dynamo=True)``.

    Height and width of the image may be dynamic. The parameters are those of ``model``. Score threshold,
    suppression and limits come from its ``test_cfg``. Soft-NMS becomes NMS with the same threshold, and a
    warning says so. Boxes, scores and RoIAlign are float32, whatever the dtype of the network.

    Args:
        model: A detector of mmdet in evaluation mode; with ``half`` it is changed.
        half: Whether its networks compute in float16. Sums do not, nor do the last layers of the heads:
            scores that float16 rounds to the same number are in no order, and the boxes that are kept
            change.

    Raises:
        ConfigError: A part of the detector that cannot be exported.

    Attributes:
        score_threshold: Objects with a lower score are left out.
        replaces_soft_nms: Whether NMS stands in for soft-NMS.
    """

    model: Any

    def __init__(self, model: Any, half: bool = False) -> None:
        super().__init__()
        check_detector(model)
        if half:
            use_half(_networks(model), _last_layers(model))
        self.model = model
        rpn, rcnn = model.rpn_head.test_cfg, model.roi_head.test_cfg
        generator = model.rpn_head.prior_generator
        # Not buffers: half() would round them.
        self._base_anchors = [base.detach().float().cpu() for base in generator.base_anchors]
        self._strides = [tuple(stride) for stride in generator.strides]
        self._nms_pre = rpn.get('nms_pre', -1)
        self._min_size = rpn.get('min_bbox_size', -1)
        self._rpn_nms, soft_rpn = suppression(rpn.nms, rpn.max_per_img, 'test_cfg.rpn.nms')
        nms, soft = suppression(rcnn.nms, rcnn.max_per_img, 'test_cfg.rcnn.nms')
        self._nms = replace(nms, head=_HEAD * nms.limit if nms.limit else None)
        self.replaces_soft_nms = soft or soft_rpn
        self.score_threshold = float(rcnn.score_thr)
        roi_head = model.roi_head
        self._box_align = [_align(extractor) for extractor in stages(roi_head.bbox_roi_extractor)]
        self._mask_align = (
            [_align(extractor) for extractor in stages(roi_head.mask_roi_extractor)]
            if roi_head.with_mask
            else []
        )
        if self.replaces_soft_nms:
            print_log(
                'Soft-NMS cannot be exported: NMS with IoU threshold '
                f'{self._nms.iou_threshold:g} replaces it, and figures differ slightly.',
                'current',
                logging.WARNING,
            )

    def forward(
        self, image: Tensor, height: Tensor | Length, width: Tensor | Length
    ) -> tuple[Tensor, ...]:
        """Detect objects in one image.

        Args:
            image: ``(1, 3, H, W)``: normalised, and padded to the stride, in the dtype of the network.
            height: Rows of ``image`` that are no padding; boxes end there.
            width: Columns that are no padding.

        Returns:
            The fields of :class:`Detections`; without a mask head the first three.
        """
        with AnySize():
            feats = self.model.extract_feat(image)
            exact = [feat.float() for feat in feats]
            height, width = _scalar(height, exact[0]), _scalar(width, exact[0])
            proposals = self._proposals(feats, height, width)
            boxes, scores, labels = self._detect(exact, feats[0].dtype, proposals, height, width)
            if not self._mask_align:
                return boxes, scores, labels
            return boxes, scores, labels, self._masks(exact, feats[0].dtype, boxes, labels)

    def _proposals(self, feats: tuple[Tensor, ...], height: Tensor, width: Tensor) -> Tensor:
        """Boxes of the region proposal network, best first, ``(n, 4)``."""
        head = self.model.rpn_head
        boxes, scores, levels = [], [], []
        for number, (logits, deltas) in enumerate(zip(*head(feats), strict=True)):
            base = self._base_anchors[number].to(logits.device)
            anchors = grid_anchors(base, self._strides[number], *logits.shape[2:])
            deltas = _by_cell(deltas, 4)
            logits = _by_cell(logits, head.cls_out_channels)
            score = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(1)[:, :-1]
            score = score.flatten()
            if self._nms_pre > 0:
                score, best = score.topk(torch.sym_min(score.shape[0], self._nms_pre))
                anchors, deltas = anchors[best], deltas[best]
            boxes.append(_decoder(head)(anchors, deltas, height, width))
            scores.append(score)
            levels.append(torch.full_like(score, number))
        box, score, level = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        if self._min_size >= 0:
            large = (box[:, 2:] - box[:, :2] > self._min_size).all(1).nonzero().squeeze(1)
            box, score, level = box[large], score[large], level[large]
        return box[self._rpn_nms(box, score, level)]

    def _detect(
        self, feats: list[Tensor], dtype: torch.dtype, boxes: Tensor, height: Tensor, width: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals ``(n, 4)`` -> boxes, scores and labels of the objects."""
        heads = stages(self.model.roi_head.bbox_head)
        logits = []
        for stage, (head, align) in enumerate(zip(heads, self._box_align, strict=True)):
            logit, deltas = (out.float() for out in head(align(feats, boxes).to(dtype)))
            logits.append(logit)
            regressed = 1 if head.reg_class_agnostic else head.num_classes
            if stage < len(heads) - 1:
                deltas = _of_class(deltas, regressed, logit[:, :-1].argmax(1))
                boxes = _decoder(head)(boxes, deltas, height, width)
        probabilities = (sum(logits) / len(logits)).softmax(1)[:, :-1]
        # Only boxes above the threshold are decoded: of 80 classes few are.
        row, label = (probabilities > self.score_threshold).nonzero().unbind(1)
        scores = probabilities.flatten()[row * probabilities.shape[1] + label]
        deltas = _of_class(deltas, regressed, label, row)
        boxes = _decoder(head)(boxes[row], deltas, height, width)
        kept = self._nms(boxes, scores, label)
        return boxes[kept], scores[kept], label[kept]

    def _masks(
        self, feats: list[Tensor], dtype: torch.dtype, boxes: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities of the masks, averaged over the stages, ``(n, 28, 28)``."""
        masks = []
        for head, align in zip(
            stages(self.model.roi_head.mask_head), self._mask_align, strict=True
        ):
            logits = head(align(feats, boxes).to(dtype)).float()
            if not head.class_agnostic:
                index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
                logits = logits.gather(1, index)
            masks.append(logits.sigmoid().squeeze(1))
        return sum(masks) / len(masks)


def _networks(model: Any) -> list[nn.Module]:
    """The parts of a detector that compute on maps or on features of boxes."""
    roi_head = model.roi_head
    parts = [model.backbone, *([model.neck] if model.with_neck else []), model.rpn_head]
    parts += stages(roi_head.bbox_head)
    return [*parts, *(stages(roi_head.mask_head) if roi_head.with_mask else ())]


def _last_layers(model: Any) -> list[nn.Module]:
    """The layers of the heads that scores, boxes and masks come out of."""
    roi_head = model.roi_head
    layers = [model.rpn_head.rpn_cls, model.rpn_head.rpn_reg]
    for head in stages(roi_head.bbox_head):
        layers += [head.fc_cls, head.fc_reg]
    return [
        *layers,
        *(head.conv_logits for head in (stages(roi_head.mask_head) if roi_head.with_mask else ())),
    ]


def _scalar(value: Tensor | Length, like: Tensor) -> Tensor:
    """A number as a tensor without dimensions, of ``like``'s dtype and device."""
    if isinstance(value, Tensor):
        return value.to(like).reshape(())
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)


def _by_cell(x: Tensor, columns: int) -> Tensor:
    """``(1, A * columns, H, W)`` -> ``(H * W * A, columns)``, float32."""
    return contiguous(x[0].permute(1, 2, 0)).reshape(-1, columns).float()


def _of_class(deltas: Tensor, classes: int, label: Tensor, row: Tensor | None = None) -> Tensor:
    """Deltas of one class each, ``(k, 4)``.

    Args:
        deltas: ``(n, 4 * classes)``.
        classes: 1 where all classes share their deltas.
        label: ``(k,)``.
        row: Of ``deltas``, ``(k,)``; None: each once.
    """
    if classes == 1:
        return deltas if row is None else deltas[row]
    row = torch.arange(deltas.shape[0], device=deltas.device) if row is None else row
    return deltas.reshape(-1, 4)[row * classes + label]


def _decoder(head: Any) -> Decoder:
    coder = head.bbox_coder
    return Decoder(coder.means, coder.stds, coder.clip_border)


def _align(extractor: Any) -> PyramidAlign:
    layer = extractor.roi_layers[0]
    return PyramidAlign(
        scales=[layer.spatial_scale for layer in extractor.roi_layers],
        size=tuple(layer.output_size),
        sampling_ratio=layer.sampling_ratio,
        aligned=layer.aligned,
        finest_scale=extractor.finest_scale,
    )
