"""Parts of a segmenter, registered on import."""

import downstream.ops  # noqa: F401  the operators come before mmseg

from .metric import SegmentationMetric
from .pictures import SegmentationPicturesHook

__all__ = ['SegmentationMetric', 'SegmentationPicturesHook']
