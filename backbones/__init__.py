"""What is evaluated. Importing it registers every backbone and the layer-decay constructor."""

from .base import Backbone
from .convnext import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, ConvNeXt, ConvNeXtV2
from .errors import ConfigError, DataError, UserError, WeightsError
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import load_pretrained, weights_table
from .timm_backbone import TimmBackbone

__all__ = [
    'CONVNEXTV2_ARCHS',
    'CONVNEXT_ARCHS',
    'Backbone',
    'ConfigError',
    'ConvNeXt',
    'ConvNeXtV2',
    'DataError',
    'LayerDecayOptimWrapperConstructor',
    'TimmBackbone',
    'UserError',
    'WeightsError',
    'load_pretrained',
    'weights_table',
]
