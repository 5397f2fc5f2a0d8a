"""From ResNet to ConvNeXt, one design decision at a time (arXiv 2201.03545, section 2)."""

from .model import Roadmap
from .steps import REGIMES, STEPS

__all__ = ['REGIMES', 'STEPS', 'Roadmap']
