"""Work beside the model: in threads, in order, and never more than a few results ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar('In')
Out = TypeVar('Out')


def ahead(
    function: Callable[[In], Out], items: Iterable[In], workers: int, waiting: int
) -> Generator[Out, None, None]:
    """``function`` of each item, computed in threads, in the order of the items.

    Decoding, resizing and encoding of pictures release the interpreter, so they run beside a model.

    Args:
        function: Called in a thread; what it raises is raised here.
        items: They are drawn in the caller's thread.
        workers: How many threads.
        waiting: How many results may exist that were not taken yet; memory is bounded by it.
    """
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # An error, or nobody takes more: what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)
