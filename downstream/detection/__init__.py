"""Parts of a detector, registered on import."""

import downstream.ops  # noqa: F401  the operators come before mmdet

from .metric import CocoInstanceMetric
from .precision import Float32RoIExtractor, Float32RPNHead
from .tta import InstanceTTAModel

__all__ = ['CocoInstanceMetric', 'Float32RPNHead', 'Float32RoIExtractor', 'InstanceTTAModel']
