"""Test-time views of images, as pipelines for configs."""

from __future__ import annotations

from collections.abc import Sequence


def segmentation_views(scale: tuple[int, int], ratios: Sequence[float]) -> list[dict]:
    """A pipeline that tests an image at several scales, each also flipped.

    Args:
        scale: Long and short side that ratio 1 fits an image into.
        ratios: Of the views to it.
    """
    sizes = [(int(scale[0] * ratio), int(scale[1] * ratio)) for ratio in ratios]
    transforms = [
        [dict(type='Resize', scale=size, keep_ratio=True) for size in sizes],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]
    return [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=transforms)]
