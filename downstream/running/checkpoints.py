"""Checkpoints of a run: read without executing anything in them, and refused when they do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import Tensor, nn

from backbones.errors import WeightsError

# Scalars of float32 stand in the logs that a segmentation checkpoint keeps; without this mmengine
# would fall back to unrestricted unpickling.
torch.serialization.add_safe_globals([type(np.dtype(np.float32))])


def local_copy(location: str) -> str:
    """``location`` if it is a path; what a URL names is downloaded once.

    Raises:
        WeightsError: The URL cannot be fetched.
    """
    if not location.startswith(('http://', 'https://')):
        return location
    target = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(location).path).name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(location, str(target))
        except OSError as error:
            raise WeightsError(
                f'cannot download {location} ({error}); without network, put it at {target}.'
            ) from error
    return str(target)


def verify(path: str | Path, model: nn.Module | None = None, fine_tuning: bool = False) -> None:
    """Check that ``path`` is a checkpoint that loads safely and, given ``model``, fits it.

    Args:
        path: A file.
        model: The model that it must fit.
        fine_tuning: Whether heads may differ; most tensors must still match.

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
        expected = model.state_dict()
        misfits = _misfits(state, expected)
        if not misfits:
            return
        shown = '\n  '.join(misfits[:5]) + ('\n  ...' if len(misfits) > 5 else '')
        matched = sum(k in state and state[k].shape == v.shape for k, v in expected.items())
        summary = f'{matched} of {len(expected)} tensors match, {len(misfits)} do not:\n  {shown}'
        if not fine_tuning or matched < len(expected) / 2:
            raise WeightsError(f'{path} does not fit the model of this config: {summary}')
        print_log(f'Fine-tuning from {path}: {summary}', 'current')


def _misfits(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    misfits = [f'{key}: missing from the file' for key in expected if key not in state]
    misfits += [f'{key}: not in the model' for key in state if key not in expected]
    return misfits + [
        f'{key}: {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model'
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
