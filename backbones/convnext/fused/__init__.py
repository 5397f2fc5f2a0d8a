"""Blocks and stages that compute what their modules do in fewer passes over memory, where they can."""

from .block import FusedBlock, Stage
from .switch import set_fused

__all__ = ['FusedBlock', 'Stage', 'set_fused']
