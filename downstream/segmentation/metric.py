"""Mean intersection over union from exact pixel counts, also per class."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from torch import Tensor

from backbones.errors import ConfigError, DataError
from downstream.distributed.gather import DataOnlyMetric


@METRICS.register_module()
class SegmentationMetric(DataOnlyMetric, IoUMetric):
    """mmseg's ``IoUMetric`` that counts in 64-bit integers.

    mmseg adds up float32 counts, which stop being exact at 2^24 pixels: 60 images of ADE20K. With
    integers, one process and several give the same figures. After an evaluation :attr:`report` holds
    mIoU, aAcc, mAcc in percent and ``per_class`` IoU and Acc; a class that does not occur is None.

    Args:
        args: Those of ``IoUMetric``.
        kwargs: Likewise.

    Raises:
        ConfigError: An option of ``IoUMetric`` that has no effect here, or ``format_only`` without a
            folder.
    """

    default_prefix = ''  # None is the same, but mmengine warns of it

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if list(self.metrics) != ['mIoU'] or self.nan_to_num is not None or self.beta != 1:
            raise ConfigError(
                'SegmentationMetric computes mIoU, aAcc and mAcc; leave iou_metrics, nan_to_num and beta '
                'out, or use mmseg.IoUMetric.'
            )
        if self.format_only and not self.output_dir:
            raise ConfigError(
                'format_only=True writes predictions without evaluating them: name a folder by --out or '
                'output_dir.'
            )
        self.report: dict = {}

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels per class, each ``(num_classes,)`` int64: intersection, union, predicted, labelled.

        Raises:
            DataError: The mask has a value that is neither a class nor ``ignore_index``.
        """
        # One number per pixel, ignored ones included: leaving them out first costs more than counting.
        ignored = ignore_index if 0 <= ignore_index < num_classes else None
        code = label.to(torch.int32).mul_(num_classes).add_(pred_label)
        if int(label.min()) < 0:
            code = code[label != ignore_index]
        counts = torch.bincount(code.flatten(), minlength=num_classes**2).cpu()
        rows = -(-len(counts) // num_classes)
        counts = torch.cat([counts, counts.new_zeros(rows * num_classes - len(counts))])
        confusion = counts.view(rows, num_classes)
        if ignored is not None:
            confusion[ignored] = 0
        beyond = confusion[num_classes:].sum(1).nonzero().flatten() + num_classes
        if strange := [int(value) for value in beyond if value != ignore_index]:
            raise DataError(
                f'a mask has the value {strange[0]}; allowed are 0 to {num_classes - 1} and '
                f'{ignore_index}. tools/train.py --check-data full names the file.'
            )
        confusion = confusion[:num_classes]
        intersect, predicted, labelled = confusion.diag(), confusion.sum(0), confusion.sum(1)
        return intersect, predicted + labelled - intersect, predicted, labelled

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only:
            return super().compute_metrics(results)
        intersect, union, _, labelled = (
            torch.stack(counts).sum(0).double().numpy() for counts in zip(*results)
        )
        with np.errstate(divide='ignore', invalid='ignore'):
            iou, acc = 100 * intersect / union, 100 * intersect / labelled
        summary = {
            'mIoU': float(np.nanmean(iou)),
            'aAcc': float(100 * intersect.sum() / labelled.sum()),
            'mAcc': float(np.nanmean(acc)),
        }
        classes = self.dataset_meta['classes']
        self.report = summary | {
            'per_class': {
                name.strip(): {'IoU': _known(i), 'Acc': _known(a)}
                for name, i, a in zip(classes, iou, acc)
            }
        }
        return summary


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
