"""Pickles read as data: what torch.save wrote, with numbers, texts and containers, and no code.

torch's restricted unpickler calls only functions, and makes only objects, of a list. mmengine's list
includes ``getattr``, with which a file reaches any attribute of anything. Here that name is bound to a
function that returns four methods of :class:`HistoryBuffer`, the only ones in the checkpoint of a run.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_METHODS = ('min', 'max', 'current', 'mean')
_NUMBERS = '?bBhHiIlLqQefd'


class _Scalars(HistoryBuffer):
    """A :class:`HistoryBuffer` as a file holds it: two arrays and a length."""

    def __setstate__(self, state: object) -> None:
        expected = {'max_length': int, '_log_history': np.ndarray, '_count_history': np.ndarray}
        if not isinstance(state, dict) or not all(
            isinstance(state.get(name), kind) for name, kind in expected.items()
        ):
            raise UnpicklingError('GLOBAL HistoryBuffer with a state of another form')
        self.__class__ = HistoryBuffer
        HistoryBuffer.__init__(self, max_length=state['max_length'])
        self._log_history, self._count_history = state['_log_history'], state['_count_history']


def _method_of_scalars(owner: object, name: str) -> object:
    if owner is not _Scalars or name not in _METHODS:
        raise UnpicklingError(f'GLOBAL getattr of {name!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> AbstractContextManager:
    """A context in which ``torch.load(weights_only=True)`` reads what runs of mmengine save, as data."""
    # The functions with which numpy pickles arrays and scalars; numpy 1 and 2 name their module
    # differently, and files of both are read.
    functions: dict[str, Any] = {
        '_reconstruct': np.zeros(1).__reduce__()[0],
        'scalar': np.float64().__reduce__()[0],
    }
    return torch.serialization.safe_globals(
        [
            slice,
            np.ndarray,
            np.dtype,
            *(
                (function, f'numpy.{core}.multiarray.{name}')
                for name, function in functions.items()
                for core in ('core', '_core')
            ),
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


def loads(data: bytes | memoryview) -> Any:
    """The content that :func:`dumps` was called with.

    Raises:
        pickle.UnpicklingError: It holds more than data.
    """
    with safe_globals():
        return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
