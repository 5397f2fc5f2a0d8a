"""Checkpoint files read as data: nothing in them is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.errors import WeightsError


def read(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """The state dict in ``path``, without its wrappers; see :func:`read_content`.

    Raises:
        WeightsError: It holds none, or values that are NaN or infinite.
    """
    state = _unwrapped(read_content(path, trust))
    if state is None:
        raise WeightsError(f'{path} holds no state dict (a dict of names and tensors).')
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f'{path}: {key} has values that are NaN or infinite.')
    return state


def read_content(path: Path, trust: bool = False, mmap: bool = False) -> object:
    """The content of a ``.safetensors`` file or of a file that torch.save wrote, on the CPU.

    Args:
        path: A file.
        trust: Unpickle whatever the file holds. That can run any program in it.
        mmap: Map the file into memory, such that a tensor is read from the disk when it is used.

    Raises:
        WeightsError: It is not a checkpoint, is damaged, holds more than data, or has tensors whose
            values the file does not store.
    """
    if path.stat().st_size == 0:
        raise WeightsError(f'{path} is empty.')
    with open(path, 'rb') as file:
        head = file.read(512)
    if head.lstrip()[:1] == b'<':
        raise WeightsError(f'{path} is a web page, not a checkpoint; check its address.')
    if head.startswith(b'version https://git-lfs'):
        raise WeightsError(f'{path} is a Git LFS pointer; fetch the file itself (git lfs pull).')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    content = _unpickled(path, trust, mmap)
    for name, tensor in _tensors(content):
        reason = _unusable(tensor)
        if reason:
            raise WeightsError(f'{path}: {name or "the tensor"} {reason}.')
    return content


def _tensors(content: object, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """Every tensor within nested containers, with its dotted name. Containers that a file nests in each
    other a hundred thousand deep, or in themselves, do no harm: there is no recursion."""
    stack, seen = [(name, content)], set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            stack += [(f'{name}.{key}' if name else str(key), item) for key, item in items]


def _unusable(tensor: Tensor) -> str:
    """Why no ordinary operation on ``tensor`` is safe, '' if all are.

    With strides of zero a file of a kilobyte can describe a tensor of terabytes, and the first operation
    that copies it would allocate that much memory.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        return 'is a sparse or quantized tensor; only dense ones can be loaded'
    if tensor.device.type != 'cpu':
        return f'has no values (a tensor on the {tensor.device.type} device)'
    needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > stored:
        return (
            f'claims {tensor.numel():,} values of which the file stores '
            f'{stored // tensor.element_size():,}; save it with .contiguous()'
        )
    return ''


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no .safetensors file or is cut off: {error}') from error


def _unpickled(path: Path, trust: bool, mmap: bool) -> object:
    # torch maps only its zip files, which it has written since 1.6.
    mmap = mmap and zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
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
            'its author. Of your own model save the state dict: torch.save(model.state_dict(), FILE). '
            'A file that you trust is converted by tools/weights.py convert FILE OUT '
            '--trust-checkpoint.'
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
    """The state dict within ``content``, taken out of the usual wrappers."""
    if isinstance(content, nn.Module):  # a whole model in a file that is trusted
        content = content.state_dict()
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return None
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return state if state and len(state) == len(content) else None
