"""Parts of a detector, registered on import."""

from downstream.quiet import import_quietly

import_quietly('mmdet.datasets', 'mmdet.models', 'mmdet.evaluation')

from .completed import CompletedCOCO
from .dino import DINODetector, DINODetectorHead, GroundingDINODetector
from .heads import PredictingDynamicMaskHead, PredictingSSDHead
from .metric import CocoInstanceMetric
from .proposals import ProposalRecallMetric
from .precision import Float32RoIExtractor, Float32RPNHead
from .preprocessor import AsyncDetDataPreprocessor
from .tta import InstanceTTAModel

__all__ = [
    'AsyncDetDataPreprocessor',
    'CocoInstanceMetric',
    'CompletedCOCO',
    'DINODetector',
    'DINODetectorHead',
    'Float32RPNHead',
    'Float32RoIExtractor',
    'GroundingDINODetector',
    'InstanceTTAModel',
    'PredictingDynamicMaskHead',
    'PredictingSSDHead',
    'ProposalRecallMetric',
]
