"""The model behind DistributedDataParallel."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """``model`` without the wrapper that mmengine puts around it in several processes."""
    return model.module if is_model_wrapper(model) else model
