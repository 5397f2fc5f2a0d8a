"""A backbone in a detector or a segmenter."""

from .apply import (
    detector,
    detr,
    drop_in,
    linear_segmentor,
    mask2former,
    segmentor,
)
from .classes import num_classes, without_masks

__all__ = [
    'detector',
    'detr',
    'drop_in',
    'linear_segmentor',
    'mask2former',
    'num_classes',
    'segmentor',
    'without_masks',
]
