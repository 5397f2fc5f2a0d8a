"""Pickles read as data: what torch.save wrote, with numbers, texts and containers, and nothing that runs.

torch's restricted unpickler calls no function and makes no object that it has not been told of. What
mmengine tells it of includes ``getattr``, with which a file reaches any attribute of anything; here
that name stands for a function that knows four methods of :class:`HistoryBuffer`, the only ones that a
run's checkpoint refers to.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_METHODS = ('min', 'max', 'current', 'mean')
_NUMBERS = '?bBhHiIlLqQefd'


class _Scalars(HistoryBuffer):
    """A :class:`HistoryBuffer` as it stands in a file: two arrays and a length."""

    def __setstate__(self, state: object) -> None:
        expected = {'max_length': int, '_log_history': np.ndarray, '_count_history': np.ndarray}
        if not isinstance(state, dict) or not all(
            isinstance(state.get(name), kind) for name, kind in expected.items()
        ):
            raise UnpicklingError('GLOBAL HistoryBuffer with a state that is none')
        self.__class__ = HistoryBuffer
        self.__init__(max_length=state['max_length'])
        self._log_history, self._count_history = state['_log_history'], state['_count_history']


def _method_of_scalars(owner: object, name: str) -> object:
    if owner is not _Scalars or name not in _METHODS:
        raise UnpicklingError(f'GLOBAL getattr of {name!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> AbstractContextManager:
    """Within it ``torch.load(weights_only=True)`` reads what runs of mmengine save, as data."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    return torch.serialization.safe_globals(
        [
            slice,
            np.ndarray,
            np.dtype,
            multiarray._reconstruct,
            multiarray.scalar,
            *{type(np.dtype(code)) for code in (*_NUMBERS, 'S', 'U')},
            (_method_of_scalars, 'builtins.getattr'),
            (_Scalars, 'mmengine.logging.history_buffer.HistoryBuffer'),
        ]
    )


def dumps(content: object) -> bytes:
    """``content`` (numbers, texts, arrays, tensors, and dicts, lists and tuples of them) as bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loads(data: bytes | memoryview) -> object:
    """What :func:`dumps` was given.

    Raises:
        pickle.UnpicklingError: It holds more than data.
    """
    with safe_globals():
        return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
