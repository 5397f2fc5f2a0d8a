"""A measurement in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar('Result')


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """What a function of a module returns in a new process.

    How fast large tensors are made depends on what the process has freed before.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()
