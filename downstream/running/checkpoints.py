"""Checkpoints of a run: read without executing anything in them, and refused when they do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import Tensor, nn

from backbones.errors import WeightsError

# Scalars of float32 stand in the logs that a segmentation checkpoint keeps; without this mmengine
# would fall back to unrestricted unpickling.
torch.serialization.add_safe_globals([type(np.dtype(np.float32))])


def verify(path: str | Path, model: nn.Module | None = None) -> None:
    """Check that ``path`` is a checkpoint that loads safely and, given ``model``, fits it exactly.

    Raises:
        WeightsError: There is no such file, it is no checkpoint, it holds more than data, or its
            tensors do not match.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f'checkpoint {path} does not exist.')
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f'{path} is not a checkpoint, is incomplete, or holds more than data: {reason}'
        ) from error
    state = content.get('state_dict') if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path} holds no 'state_dict': it is not the checkpoint of a run.")
    if model is not None:
        _require_fit(path, state, model.state_dict())


def _require_fit(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    misfits = [f'{key}: missing from the file' for key in expected if key not in state]
    misfits += [f'{key}: not in the model' for key in state if key not in expected]
    misfits += [
        f'{key}: {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model'
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if misfits:
        shown = '\n  '.join(misfits[:5])
        raise WeightsError(
            f'{path} does not fit the model of this config ({len(misfits)} of {len(expected)} tensors):'
            f'\n  {shown}' + ('\n  ...' if len(misfits) > 5 else '')
        )
