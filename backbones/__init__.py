"""What is evaluated. Importing it registers every backbone and the layer-decay constructor."""

from backbones.deferred import install as _defer_imports
from backbones.openmmlab import MissingPackageError
from backbones.openmmlab import require as _require

_require('mmengine')
_defer_imports()

from backbones.completed import CompletedBackbone
from backbones.convnext.archs import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS
from backbones.convnext.fused.switch import set_fused
from backbones.convnext.isotropic import ConvNeXtIsotropic
from backbones.convnext.model import ConvNeXt, ConvNeXtV2
from backbones.optim.layer_decay import LayerDecayOptimWrapperConstructor
from backbones.roadmap.model import Roadmap
from backbones.timm_backbone.backbone import TimmBackbone
from backbones.weights.load import load_pretrained, weights_table

from .base import Backbone
from .errors import ConfigError, DataError, UserError, WeightsError

__all__ = [
    'CONVNEXTV2_ARCHS',
    'CONVNEXT_ARCHS',
    'Backbone',
    'CompletedBackbone',
    'ConfigError',
    'ConvNeXt',
    'ConvNeXtIsotropic',
    'ConvNeXtV2',
    'DataError',
    'LayerDecayOptimWrapperConstructor',
    'MissingPackageError',
    'Roadmap',
    'TimmBackbone',
    'UserError',
    'WeightsError',
    'load_pretrained',
    'set_fused',
    'weights_table',
]
