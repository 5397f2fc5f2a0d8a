"""A trained model on a device, in the precision that a command line asks for."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from torch import nn

from backbones.errors import ConfigError
from downstream.distributed.wrapping import trained_part
from downstream.running.checkpoint.read import matching_tensors
from downstream.running.precision import half_precision


def loaded_model(cfg: Config, content: dict, checkpoint: str) -> nn.Module:
    """The model of a config with the weights of a checkpoint.

    Args:
        cfg: A complete config to test with, in whose scope this is called.
        content: Of the checkpoint.
        checkpoint: Its name, for messages.

    Raises:
        WeightsError: The checkpoint does not match the model.
    """
    model = MODELS.build(cfg.model)
    trained = trained_part(model)
    trained.load_state_dict(matching_tensors(content['state_dict'], trained, checkpoint))
    return model


def usable_device(name: str | None) -> torch.device:
    """The device of a name; None: a GPU if there is one.

    Raises:
        ConfigError: It cannot be used.
    """
    try:
        device = torch.device(name or get_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(f'--device {name} cannot be used: {reason}') from error
    return device


def half_dtype(amp: str | None, device: torch.device) -> torch.dtype | None:
    """The precision of ``--amp`` on a device: None for None, that of the device for ``'auto'``."""
    if amp is None:
        return None
    half = half_precision(amp, device.type == 'cuda')
    return torch.float16 if half == 'fp16' else torch.bfloat16
