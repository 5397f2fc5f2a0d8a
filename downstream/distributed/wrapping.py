"""Models within models: DistributedDataParallel, test-time augmentation, tiles."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """``model`` without the wrapper that mmengine puts around it in several processes."""
    inner = getattr(model, 'module', None)
    return inner if is_model_wrapper(model) and isinstance(inner, nn.Module) else model


def trained_part(model: nn.Module) -> nn.Module:
    """What of ``model`` a checkpoint has the weights of: without what augments and merges its tests."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    return model
