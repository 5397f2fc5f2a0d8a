"""What is evaluated. Importing it registers every backbone and the layer-decay constructor."""

from .convnext import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, ConvNeXt, ConvNeXtV2
from .errors import ConfigError, DataError, UserError, WeightsError
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import load_pretrained, weights_table

__all__ = [
    'CONVNEXTV2_ARCHS',
    'CONVNEXT_ARCHS',
    'ConfigError',
    'ConvNeXt',
    'ConvNeXtV2',
    'DataError',
    'LayerDecayOptimWrapperConstructor',
    'UserError',
    'WeightsError',
    'load_pretrained',
    'weights_table',
]
