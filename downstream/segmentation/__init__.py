"""Parts of a segmenter, registered on import."""

from downstream.quiet import import_quietly

import_quietly('mmseg.datasets', 'mmseg.models', 'mmseg.evaluation')

from .metric import SegmentationMetric
from .preprocessor import AsyncSegDataPreProcessor
from .tta import MeanScoresTTAModel

__all__ = ['AsyncSegDataPreProcessor', 'MeanScoresTTAModel', 'SegmentationMetric']
