"""ConvNeXt and ConvNeXt V2 (arXiv 2201.03545, 2301.00808)."""

from .archs import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, Arch
from .block import GRN, Block
from .fused import FusedBlock, Stage, set_fused
from .model import ConvNeXt, ConvNeXtV2

__all__ = [
    'CONVNEXTV2_ARCHS',
    'CONVNEXT_ARCHS',
    'GRN',
    'Arch',
    'Block',
    'ConvNeXt',
    'ConvNeXtV2',
    'FusedBlock',
    'Stage',
    'set_fused',
]
