"""A row's published figures and those of a test, under the same names, in percent."""

from __future__ import annotations

from collections.abc import Mapping

from .table import Row

_AP_NAMES = ('AP', 'AP50', 'AP75')


def published_figures(row: Row) -> dict[str, float]:
    """``box AP``, ``mask AP50``, ``mIoU multi-scale`` ... as printed in the paper."""
    figures: dict[str, float] = {}
    for kind, values in row.published.items():
        if isinstance(values, list):
            figures |= {f'{kind} {name}': v for name, v in zip(_AP_NAMES, values)}
        else:
            figures[kind] = values
    return figures


def measured_figures(report: Mapping) -> dict[str, float | None]:
    """The figures of a test that papers print.

    Args:
        report: The content of a ``metrics.json``.

    Raises:
        KeyError: It is none.
    """
    metrics = report['metrics']
    if report.get('task') == 'segmentation':
        return {'mIoU multi-scale' if report.get('tta') else 'mIoU': metrics['mIoU']}
    return {
        f'{kind} {name}': None if metrics[key][name] is None else 100 * metrics[key][name]
        for kind, key in (('box', 'bbox'), ('mask', 'segm'))
        if key in metrics
        for name in _AP_NAMES
    }
