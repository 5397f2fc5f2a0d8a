"""A file of arrays with a header of JSON, as a test keeps what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from backbones.errors import DataError
from downstream.atomic import atomic


def save(
    path: Path, version: int, header: Mapping, arrays: Mapping[str, np.ndarray], compressed: bool
) -> None:
    """Write a file atomically.

    Args:
        path: The file, ``.npz``.
        version: Of the format of what is kept.
        header: JSON values.
        arrays: What is kept, by name.
        compressed: Whether to compress the arrays.
    """
    content = json.dumps({'format': version, **header}).encode()
    parts: dict[str, Any] = {'header': np.frombuffer(content, np.uint8), **arrays}
    with atomic(path, 'wb', flush=True) as file:
        (np.savez_compressed if compressed else np.savez)(file, **parts)


def read(path: Path, version: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and arrays of a file of :func:`save`.

    Raises:
        DataError: The file is damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file['header'].tobytes())
            arrays = {name: file[name] for name in file.files if name != 'header'}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f'{path} is damaged ({error}); run the test again.') from error
    if header.get('format') != version:
        raise DataError(f'{path} was written by another version; run the test again.')
    return header, arrays
