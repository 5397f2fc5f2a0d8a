"""Checkpoint files read as data alone: nothing in them runs."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backbones.errors import WeightsError


def read(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """The state dict in ``path``, whatever it is wrapped in; see :func:`read_content`.

    Raises:
        WeightsError: It holds none, or values that are no numbers.
    """
    state = _unwrapped(read_content(path, trust))
    if state is None:
        raise WeightsError(f'{path} holds no state dict (a dict of names and tensors).')
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f'{path}: {key} has values that are no numbers (NaN or infinite).')
    return state


def read_content(path: Path, trust: bool = False) -> object:
    """What ``path`` holds, ``.safetensors`` or what torch.save wrote.

    Args:
        path: A file.
        trust: Unpickle whatever the file holds. That can run any program in it.

    Raises:
        WeightsError: It is no checkpoint, is broken, or holds more than data.
    """
    if path.stat().st_size == 0:
        raise WeightsError(f'{path} is empty.')
    with open(path, 'rb') as file:
        head = file.read(512)
    if head.lstrip()[:1] == b'<':
        raise WeightsError(f'{path} is a web page, not a checkpoint; was its address right?')
    if head.startswith(b'version https://git-lfs'):
        raise WeightsError(f'{path} is a Git LFS pointer; fetch the file itself (git lfs pull).')
    return _read_safetensors(path) if path.suffix == '.safetensors' else _unpickled(path, trust)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no .safetensors file or is cut off: {error}') from error


def _unpickled(path: Path, trust: bool) -> object:
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if trust:
            return torch.load(path, map_location='cpu', weights_only=False)
        found = re.search(
            r'GLOBAL (\S+)|Unsupported (?:global|class): (?:GLOBAL )?(\S+)', str(error)
        )
        if found is None:
            raise WeightsError(f'{path} is not a checkpoint: it cannot be unpickled.') from error
        raise WeightsError(
            f'{path} holds more than data ({found[1] or found[2]}), and loading it would run code of '
            'its author. If you trust the file, say --trust-checkpoint (trust=True).'
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f'{path} is no checkpoint or is cut off: {reason}') from error


_WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'module')


def _unwrapped(content: object) -> dict[str, Tensor] | None:
    """The state dict within ``content``, whatever it is wrapped in."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            return None
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return state if state and len(state) == len(content) else None
