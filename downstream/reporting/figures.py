"""The figures of a test by name, as the page and papers show them: percent."""

from __future__ import annotations

from statistics import mean, stdev

from .runs import Run

_KINDS = (('bbox', 'box'), ('segm', 'mask'))
_OF_SEGMENTATION = ('mIoU', 'aAcc', 'mAcc')


def figures_of(run: Run) -> dict[str, float | None]:
    """All figures of a run's test but those of classes; empty without one."""
    if run.test is None:
        return {}
    metrics = run.test.report['metrics']
    if run.task == 'segmentation':
        found = {name: metrics.get(name) for name in _OF_SEGMENTATION}
        if run.regions and not isinstance(run.regions, str):
            found['mean boundary IoU'] = run.regions.mean_boundary_iou
        return found
    return {
        f'{word} {name}': percent(value)
        for kind, word in _KINDS
        for name, value in metrics.get(kind, {}).items()
        if name != 'per_class'
    }


def per_class(run: Run) -> dict[str, dict[str, float | None]]:
    """Class -> its figures by name; empty without a test."""
    if run.test is None:
        return {}
    metrics = run.test.report['metrics']
    if run.task == 'segmentation':
        found = {name: dict(row) for name, row in (metrics.get('per_class') or {}).items()}
        if run.regions and not isinstance(run.regions, str):
            for name, value in run.regions.boundary_iou.items():
                found.setdefault(name, {})['boundary IoU'] = value
        return found
    found = {}
    for kind, word in _KINDS:
        for name, value in (metrics.get(kind, {}).get('per_class') or {}).items():
            found.setdefault(name, {})[f'{word} AP'] = percent(value)
    return found


def percent(value: float | None) -> float | None:
    """A fraction in percent."""
    return None if value is None else 100 * value


def spread(values: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of what is known; the latter needs two values."""
    known = [value for value in values if value is not None]
    return (mean(known) if known else None), (stdev(known) if len(known) > 1 else None)
